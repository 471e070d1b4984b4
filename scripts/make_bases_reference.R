# Writes what R makes of spline, polynomial and contrast bases, for tests/design/test_bases.py:
#
#   Rscript scripts/make_bases_reference.R tests/reference/data/bases.json
#
# Packages: splines, which comes with R. The stored numbers are those of R 4.2.2. Matrices are lists of columns.
# Numbers have 17 digits, so that they read back as the same doubles.

library(splines)
arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 1)

to_json <- function(x) {
  if (is.list(x) && !is.null(names(x))) {
    fields <- paste0("\"", names(x), "\": ", vapply(x, to_json, ""))
    return(paste0("{", paste(fields, collapse = ", "), "}"))
  }
  if (is.matrix(x)) x <- lapply(seq_len(ncol(x)), function(j) I(x[, j]))
  if (is.list(x)) return(paste0("[", paste(vapply(x, to_json, ""), collapse = ",\n"), "]"))
  text <- if (is.character(x)) encodeString(x, quote = "\"")
    else if (is.logical(x)) tolower(as.character(x))
    else {
      stopifnot(all(is.finite(x)))
      sprintf("%.17g", x)
    }
  if (inherits(x, "AsIs") || length(x) != 1) paste0("[", paste(text, collapse = ", "), "]") else text
}

plain <- function(basis) matrix(as.numeric(basis), nrow(basis))

# ------------------------------------------------------------ splines

# Both boundaries, every knot, points between, and points up to two widths beyond the ends.
points_of <- function(inner, lower, upper) {
  width <- upper - lower
  between <- lower + width * c(1e-9, 0.07, 0.21, 0.335, 0.48, 0.61, 0.74, 0.88, 0.999)
  beyond <- c(lower - width * c(2, 0.5, 1e-6), upper + width * c(1e-6, 0.3, 1.5))
  c(between, lower, upper, unique(inner), beyond)
}

spline_case <- function(make, inner, lower, upper, intercept, ...) {
  x <- points_of(inner, lower, upper)
  basis <- suppressWarnings(
    make(x, knots = inner, Boundary.knots = c(lower, upper), intercept = intercept, ...))
  list(inner = I(as.numeric(inner)), lower = lower, upper = upper, intercept = intercept, ...,
    x = I(x), columns = plain(basis))
}

bs_case <- function(inner, lower, upper, degree, intercept) {
  spline_case(bs, inner, lower, upper, intercept, degree = degree)
}
ns_case <- function(inner, lower, upper, intercept) spline_case(ns, inner, lower, upper, intercept)

bspline <- list(
  bs_case(NULL, -1, 2, 3, FALSE),
  bs_case(NULL, 0.1, 0.7, 3, TRUE),
  bs_case(c(0.3, 1.1, 1.9), -1, 2.5, 3, FALSE),
  bs_case(c(0.3, 1.1, 1.9), -1, 2.5, 3, TRUE),
  bs_case(c(1990, 2001.5), 1985, 2013, 2, FALSE),
  bs_case(c(3, 1, 2), 0, 4, 1, TRUE),
  bs_case(c(1, 1, 2), 0, 4, 3, FALSE),           # a repeated knot
  bs_case(c(1, 2, 2, 2, 2, 2), 0, 4, 3, TRUE),   # so often that the functions jump and one vanishes
  bs_case(c(0, 2), 0, 4, 3, TRUE),               # a knot on the lower boundary
  bs_case(c(-0.2, 0, 0.35), -1, 1, 5, FALSE)
)
natural <- list(
  ns_case(NULL, -1, 2, FALSE),
  ns_case(NULL, -1, 2, TRUE),
  ns_case(0.4, -1, 2, FALSE),
  ns_case(c(0.3, 1.1, 1.9), -1, 2.5, FALSE),
  ns_case(c(0.3, 1.1, 1.9), -1, 2.5, TRUE),
  ns_case(c(1990, 1992, 2001.5, 2010), 1985, 2013, FALSE),
  ns_case(c(1, 1, 2), 0, 4, FALSE),
  ns_case(c(10, 20, 30, 50, 80, 130, 210) * 1e3, 5e3, 4e5, TRUE)
)

# ------------------------------------------------------------ polynomials

polynomial_case <- function(x0, degree) {
  made <- poly(x0, degree)
  coefs <- attr(made, "coefs")
  x <- c(x0[1:5], min(x0) - diff(range(x0)), mean(x0), max(x0) + 0.5 * diff(range(x0)))
  list(alpha = I(coefs$alpha), norm2 = I(coefs$norm2), x = I(x), columns = plain(predict(made, x)))
}
skewed <- c(0.1, 0.2, 0.25, 0.4, 0.9, 1.3, 2.2, 2.3, 3.7, 5.5, 8.1, 13.4)
polynomial <- list(
  polynomial_case(skewed, 1),
  polynomial_case(skewed, 3),
  polynomial_case(1999:2013, 5)
)

# ------------------------------------------------------------ contrasts

counts <- c(2, 3, 4, 5, 8, 12)
contrasts_of <- function(make, coding) {
  lapply(counts, function(n) list(coding = coding, count = n, columns = plain(make(n))))
}
contrast <- c(
  contrasts_of(contr.sum, "sum"),
  contrasts_of(contr.helmert, "helmert"),
  contrasts_of(contr.poly, "poly")
)
polynomial_names <- as.list(colnames(contr.poly(7)))

# ------------------------------------------------------------ knots

# Values whose quantile at probability p is p, so that the knots tell the probabilities.
knots <- lapply(c(1, 2, 3, 6), function(n) {
  even <- seq(0, 1, length.out = 8401)
  list(count = n, bs = I(as.numeric(attr(bs(even, df = n + 3), "knots"))),
    ns = I(as.numeric(attr(ns(even, df = n + 1), "knots"))))
})

writeLines(
  to_json(list(made_by = R.version.string, bspline = bspline, natural = natural, polynomial = polynomial,
    contrast = contrast, polynomial_names = I(unlist(polynomial_names)), knots = knots)),
  arguments[1])
