# Writes the endometrial data and what R's glm makes of their overlapping rows, for tests/test_separating.py:
#
#   Rscript scripts/make_separation_references.R tests/reference/data/endometrial.json
#
# Packages: brglm2, which has the data (Heinze and Schemper 2002, Statistics in Medicine 21, 2409-2419).
# The stored numbers are those of R 4.2.2 and brglm2 0.9. All 13 tumours with neovascularisation are of high grade,
# so that its coefficient is infinite; the other rows are fitted without it until steps are rounding.
# Numbers have 17 digits, so that they read back as the same doubles.

suppressMessages(library(brglm2))
arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 1)
data("endometrial", package = "brglm2")

numbers <- function(x) paste0("[", paste(sprintf("%.17g", x), collapse = ", "), "]")
fit <- glm(
  HG ~ PI + EH, family = binomial, data = endometrial, subset = NV == 0,
  control = glm.control(epsilon = 1e-14, maxit = 100)
)
terms <- sub("(Intercept)", "Intercept", names(coef(fit)), fixed = TRUE)
fields <- c(
  vapply(names(endometrial), function(name) numbers(endometrial[[name]]), ""),
  terms = paste0("[", paste0("\"", terms, "\"", collapse = ", "), "]"),
  coefficients = numbers(coef(fit)),
  std_error = numbers(sqrt(diag(vcov(fit)))),
  log_likelihood = sprintf("%.17g", as.numeric(logLik(fit)))
)
writeLines(paste0("{\n", paste0(" \"", names(fields), "\": ", fields, collapse = ",\n"), "\n}"), arguments)
