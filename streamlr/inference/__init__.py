"""What is said of a fitted model, and how sure it is.

From the sums of the fit: robust and clustered covariances, profile-likelihood intervals, Firth's penalised
likelihood. From a saved model alone: tests of hypotheses, another reference level, collinearity, comparison
with other models. From a model and the rows of its fit, which `rereading` leads back to: marginal effects,
diagnosis, tests of terms that it lacks.
"""
