"""Results as people and programs read them. Everything here is made from the result's dict alone."""
