# Tests of hypotheses, inflation factors, comparisons of nested models and changes of reference level on real data
# sets, from R, as JSON for the tests.
#
#   Rscript scripts/make_test_references.R REFERENCE_DIR
#
# Reads REFERENCE_DIR/data/*.csv (make_references.R wrote them) and writes REFERENCE_DIR/tests/*.json. Every fit is
# glm's, iterated from its own estimate until that does not move, so that vcov() is the one at the estimate. Wald
# tests: car::linearHypothesis(test = "Chisq") and, of all that a model adds, lmtest::waldtest. Terms:
# car::Anova(test.statistic = "Wald"), types II and III. Inflation: car::vif. Comparisons: anova(test = "LRT"), AIC
# and BIC, and lmtest::lrtest must agree. Intervals: confint.default. Other reference levels: relevel() and a refit.
# Robust ones: sandwich::vcovHC and vcovCL (cadjust = TRUE, type "HC0"), given to linearHypothesis and Anova.
# Packages: car, lmtest, sandwich, splines, jsonlite.

suppressPackageStartupMessages({
  library(car)
  library(lmtest)
  library(sandwich)
  library(splines)
})
arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 1)
reference_dir <- arguments[1]
out_dir <- file.path(reference_dir, "tests")
dir.create(out_dir, showWarnings = FALSE)

# ------------------------------------------------------------ names and files

# Treatment contrasts whose columns are called [T.level], so that R itself makes the term names.
contr.named <- function(n, ...) {
  coding <- contr.treatment(n, ...)
  colnames(coding) <- paste0("[T.", colnames(coding), "]")
  coding
}
options(contrasts = c("contr.named", "contr.poly"))

# `written`: how streamlr writes what R writes otherwise, by fixed text; set by each case.
written <- character()
term_names <- function(names) {
  for (own in names(written)) names <- gsub(own, written[[own]], names, fixed = TRUE)
  names <- gsub("(Intercept)", "Intercept", names, fixed = TRUE)
  names <- gsub("factor(", "C(", names, fixed = TRUE)
  names <- gsub("[T.TRUE]", "[T.True]", names, fixed = TRUE)
  names <- gsub("^", "**", names, fixed = TRUE)
  gsub("`", "", names, fixed = TRUE)
}

# What the stored CSV files mean: true and false are logical, an empty field is missing, text is a factor with its
# levels in code-point order.
stored <- function(name) {
  data <- read.csv(file.path(reference_dir, "data", name), na.strings = "", check.names = FALSE)
  for (column in names(data)) {
    x <- data[[column]]
    if (!is.character(x)) next
    data[[column]] <- if (all(x %in% c("true", "false"))) x == "true" else
      factor(x, levels = sort(unique(x), method = "radix"))
  }
  data
}

kinds <- function(data) {
  lapply(as.list(data), function(x) {
    if (is.logical(x)) "bool" else if (is.integer(x)) "int64" else if (is.numeric(x)) "double" else "string"
  })
}

# ------------------------------------------------------------ what is asked of a fit

fitted_tightly <- function(formula, d, weights = NULL) {
  control <- glm.control(epsilon = 1e-15, maxit = 100)
  environment(formula) <- environment()
  d$.weight <- if (is.null(weights)) rep(1, nrow(d)) else d[[weights]]
  start <- NULL
  for (round in 1:30) {
    fit <- suppressWarnings(glm(formula, binomial, d, weights = .weight, control = control, start = start))
    moved <- if (is.null(start)) Inf else max(abs(coef(fit) - start), na.rm = TRUE)
    start <- coef(fit)
    start[is.na(start)] <- 0
    if (moved == 0) break
  }
  fit$call$formula <- formula
  fit
}

# Frequency weights count for BIC, R's rows of the table do not. With fractional weights R has no likelihood.
criteria <- function(fit, d, weights) {
  if (!is.null(weights) && any(d[[weights]] != round(d[[weights]]))) return(NULL)
  n <- if (is.null(weights)) nobs(fit) else sum(d[[weights]])
  list(log_likelihood = as.numeric(logLik(fit)), aic = AIC(fit), bic = AIC(fit, k = log(n)))
}

# A matrix of equations from a list of named rows, the names being those of the tests.
equations <- function(rows, names) {
  t(sapply(rows, function(row) {
    stopifnot(names(row) %in% names)
    setNames(replace(rep(0, length(names)), match(names(row), names), row), names)
  }))
}

# One hypothesis: `text` as it is written here, `rows` and `value` as R needs them.
wald <- function(fit, V, text, rows, value = 0) {
  names <- term_names(names(coef(fit)))
  L <- equations(rows, names)
  found <- linearHypothesis(fit, unname(L), rhs = rep_len(value, nrow(L)), test = "Chisq", vcov. = V)
  list(text = text, df = found$Df[2], statistic = found$Chisq[2], p_value = found[["Pr(>Chisq)"]][2],
       estimate = I(as.numeric(L %*% coef(fit))), std_error = I(sqrt(diag(L %*% V %*% t(L)))))
}

anova_table <- function(fit, V, type) {
  found <- Anova(fit, type = type, test.statistic = "Wald", vcov. = V, singular.ok = TRUE)
  found <- found[rownames(found) != "Residuals", , drop = FALSE]
  list(term = I(term_names(rownames(found))), df = I(found$Df), statistic = I(found$Chisq),
       p_value = I(found[["Pr(>Chisq)"]]))
}

inflation <- function(fit) {
  found <- vif(fit)
  if (!is.matrix(found)) found <- cbind(found, 1)
  list(term = I(term_names(rownames(found))), gvif = I(unname(found[, 1])), df = I(unname(found[, 2])))
}

# Of the columns of sqrt(W) X at length one, without and with the intercept taken out of them first.
condition <- function(fit) {
  X <- sqrt(fit$weights) * model.matrix(fit)
  one <- function(X) kappa(sweep(X, 2, sqrt(colSums(X^2)), "/"), exact = TRUE)
  centred <- qr.resid(qr(X[, 1]), X[, -1, drop = FALSE])
  list(plain = one(X), centred = one(centred))
}

table_of <- function(fit, V = vcov(fit)) {
  list(terms = I(term_names(names(coef(fit)))), coefficients = I(unname(coef(fit))),
       std_error = I(unname(sqrt(diag(V)))))
}

covariance <- function(fit, robust, d) {
  if (is.null(robust)) return(vcov(fit))
  if (!is.null(robust$cluster)) {
    return(vcovCL(fit, cluster = d[[robust$cluster]], type = "HC0", cadjust = TRUE))
  }
  vcovHC(fit, type = robust$cov)
}

# One case. `formula` is R's, `keywords` what streamlr.fit gets; `weights` of rows; `robust` list(cov, cluster);
# `tests` a list of list(text, rows, value); `relevel` of list(column, reference); `smaller` of list(formula,
# keywords), each nested in the one before, the first in the model of the case.
case <- function(name, file, formula, keywords, weights = NULL, robust = NULL, tests = list(), change = list(),
                 smaller = list(), inflated = TRUE, prepare = identity, names = character()) {
  written <<- names
  data <- stored(file)
  d <- prepare(data)
  fit <- fitted_tightly(formula, d, weights)
  V <- covariance(fit, robust, d)
  found <- list(
    case = name, data = file, columns = kinds(data), fit = keywords, call = paste(deparse(formula), collapse = " "),
    computed_by = paste(R.version.string, "car", packageVersion("car"), "lmtest", packageVersion("lmtest"),
                        "sandwich", packageVersion("sandwich")),
    table = table_of(fit, V), criteria = criteria(fit, d, weights)
  )
  levels <- c("0.5", "0.9", "0.999")
  found$intervals <- setNames(lapply(levels, function(level) {
    unname(coef(fit) + sqrt(diag(V)) %o% qnorm(c((1 - as.numeric(level)) / 2, (1 + as.numeric(level)) / 2)))
  }), levels)
  if (is.null(robust)) {
    stopifnot(all.equal(found$intervals[["0.9"]], unname(confint.default(fit, level = 0.9)), tolerance = 1e-13))
  }
  found$tests <- lapply(tests, function(one) do.call(wald, c(list(fit, V), one)))
  for (type in 2:3) found[[paste0("type", type)]] <- anova_table(fit, V, type)
  if (inflated) {
    found$vif <- inflation(fit)
    found$condition <- condition(fit)
  }
  found$relevel <- lapply(change, function(one) {
    d[[one$column]] <- relevel(factor(d[[one$column]]), ref = as.character(one$reference))
    again <- fitted_tightly(formula, d, weights)
    c(list(column = one$column, reference = one$reference), table_of(again, covariance(again, robust, d)))
  })
  larger <- fit
  found$smaller <- lapply(smaller, function(one) {
    less <- fitted_tightly(one$formula, d, weights)
    deviances <- anova(less, larger, test = "LRT")
    ratio <- lrtest(less, larger)
    stopifnot(abs(deviances$Deviance[2] - ratio$Chisq[2]) < 1e-7, deviances$Df[2] == ratio$Df[2])
    # Not where the terms of one are no terms of the other.
    dropped <- tryCatch(waldtest(less, larger, vcov = vcov(larger), test = "Chisq"), error = function(e) NULL)
    larger <<- less
    list(fit = one$keywords, df = ratio$Df[2], statistic = ratio$Chisq[2], p_value = ratio[["Pr(>Chisq)"]][2],
         wald_statistic = if (is.null(dropped)) NULL else dropped$Chisq[2], criteria = criteria(less, d, weights))
  })
  text <- jsonlite::toJSON(found, auto_unbox = TRUE, digits = I(17), pretty = 1, null = "null", na = "null")
  writeLines(text, file.path(out_dir, paste0(name, ".json")))
}

# ------------------------------------------------------------ cases

race <- c("race[T.other]", "race[T.white]")
row <- function(...) c(...)
zero <- function(names) lapply(names, function(name) setNames(1, name))

case("birthwt_formula", "birthwt_text.csv",
     low ~ age + I(age^2) + log(lwt) + race * smoke + age:ht,
     list(formula = "low ~ age + I(age**2) + log(lwt) + race * smoke + age:ht"),
     tests = list(
       list("race", zero(race)),
       list("race:smoke, I(age**2)",
            zero(c("race[T.other]:smoke[T.True]", "race[T.white]:smoke[T.True]", "I(age**2)"))),
       list("race[T.other] = race[T.white]", list(c("race[T.other]" = 1, "race[T.white]" = -1))),
       list("age - 2*I(age**2) = 0.5", list(c("age" = 1, "I(age**2)" = -2)), 0.5),
       list("3*(age + I(age ** 2)) / 4 - log(lwt) = -1e-1, age:ht[T.True] = smoke[T.True]",
            list(c("age" = 0.75, "I(age**2)" = 0.75, "log(lwt)" = -1),
                 c("age:ht[T.True]" = 1, "smoke[T.True]" = -1)), c(-0.1, 0)),
       list("Intercept = 7", list(c("Intercept" = 1)), 7)),
     change = list(list(column = "race", reference = "white"), list(column = "race", reference = "other")),
     smaller = list(
       list(formula = low ~ age + I(age^2) + log(lwt) + race + smoke + age:ht,
            keywords = list(formula = "low ~ age + I(age**2) + log(lwt) + race + smoke + age:ht")),
       list(formula = low ~ age + race, keywords = list(formula = "low ~ race + age")),
       list(formula = low ~ 1, keywords = list(formula = "low ~ 1"))))

case("infert", "infert.csv", case ~ education + age + parity + induced + spontaneous,
     list(target = "case", features = c("education", "age", "parity", "induced", "spontaneous")),
     tests = list(
       list("education", zero(c("education[T.12+ yrs]", "education[T.6-11yrs]"))),
       list("induced - 2*spontaneous = 1, parity", list(c(induced = 1, spontaneous = -2), c(parity = 1)), c(1, 0)),
       list("education[T.12+ yrs] - education[T.6-11yrs]",
            list(c("education[T.12+ yrs]" = 1, "education[T.6-11yrs]" = -1)))),
     change = list(list(column = "education", reference = "6-11yrs")),
     smaller = list(list(formula = case ~ age + parity + induced + spontaneous,
                         keywords = list(formula = "case ~ age + parity + induced + spontaneous"))))

case("infert_HC3", "infert.csv", case ~ education + age + parity + induced + spontaneous,
     list(target = "case", features = c("education", "age", "parity", "induced", "spontaneous"), cov = "HC3"),
     robust = list(cov = "HC3"), inflated = FALSE,
     tests = list(
       list("education", zero(c("education[T.12+ yrs]", "education[T.6-11yrs]"))),
       list("induced = spontaneous", list(c(induced = 1, spontaneous = -1)))),
     change = list(list(column = "education", reference = "12+ yrs")))

case("bacteria_cluster", "bacteria_patients.csv", y ~ trt * week,
     list(formula = "y ~ trt * week", cluster = I("patient")),
     robust = list(cluster = "patient"), inflated = FALSE,
     tests = list(list("trt, trt:week",
                       zero(c("trt[T.drug+]", "trt[T.placebo]", "trt[T.drug+]:week", "trt[T.placebo]:week")))),
     change = list(list(column = "trt", reference = "placebo")))

case("esoph", "esoph.csv", cbind(ncases, n - ncases) ~ agegp + alcgp + tobgp,
     list(target = "ncases", features = c("agegp", "alcgp", "tobgp"), trials = "n"),
     tests = list(
       list("tobgp", zero(paste0("tobgp[T.", c("10-19", "20-29", "30+"), "]"))),
       list("alcgp[T.40-79] = alcgp[T.80-119] = alcgp[T.120+]",
            list(c("alcgp[T.40-79]" = 1, "alcgp[T.80-119]" = -1),
                 c("alcgp[T.80-119]" = 1, "alcgp[T.120+]" = -1)))),
     change = list(list(column = "agegp", reference = "45-54"), list(column = "tobgp", reference = "30+")),
     smaller = list(list(formula = cbind(ncases, n - ncases) ~ agegp + alcgp,
                         keywords = list(formula = "ncases ~ alcgp + agegp", trials = "n"))))

# Frequency weights: R's number of rows is that of the table, so that its BIC is of other rows.
case("ucb", "ucb.csv", Admit ~ Gender * Dept,
     list(formula = "Admit ~ Gender * Dept", positive = "Admitted", weights = "Freq", weight_type = "frequency"),
     weights = "Freq", prepare = function(d) { d$Admit <- d$Admit == "Admitted"; d },
     tests = list(list("Gender:Dept", zero(paste0("Gender[T.Male]:Dept[T.", LETTERS[2:6], "]"))),
                  list("Gender[T.Male] = -Gender[T.Male]:Dept[T.F]",
                       list(c("Gender[T.Male]" = 1, "Gender[T.Male]:Dept[T.F]" = 1)))),
     change = list(list(column = "Dept", reference = "D"), list(column = "Gender", reference = "Male")),
     smaller = list(
       list(formula = Admit ~ Gender + Dept,
            keywords = list(formula = "Admit ~ Dept + Gender", positive = "Admitted", weights = "Freq",
                            weight_type = "frequency")),
       list(formula = Admit ~ Dept,
            keywords = list(formula = "Admit ~ Dept", positive = "Admitted", weights = "Freq",
                            weight_type = "frequency"))))

case("nwtco_analytic", "nwtco.csv", rel ~ factor(histol) * age + factor(stage),
     list(formula = "rel ~ C(histol) * age + C(stage)", weights = "weight", weight_type = "analytic"),
     weights = "weight",
     tests = list(list("stage", zero(paste0("C(stage)[T.", 2:4, "]"))),
                  list("C(histol)[T.2] + 24*C(histol)[T.2]:age",
                       list(c("C(histol)[T.2]" = 1, "C(histol)[T.2]:age" = 24)))),
     change = list(list(column = "stage", reference = 3L), list(column = "histol", reference = 2L)))

case("snails", "snails.csv",
     cbind(Deaths, N - Deaths) ~ Species + Rel.Hum + Temp + offset(log_exposure),
     list(target = "Deaths", features = c("Species", "Rel.Hum", "Temp"), trials = "N", offset = "log_exposure"),
     tests = list(list("Rel.Hum + 2 * Temp = 0.1", list(c(Rel.Hum = 1, Temp = 2)), 0.1)),
     change = list(list(column = "Species", reference = "B")),
     smaller = list(list(formula = cbind(Deaths, N - Deaths) ~ Species + offset(log_exposure),
                         keywords = list(target = "Deaths", features = I("Species"), trials = "N",
                                         offset = "log_exposure"))))

case("pima_spline", "pima_tr2.csv", type ~ bs(glu, df = 4) + ped + age,
     list(formula = "type ~ bs(glu, df=4) + ped + age"),
     names = c(setNames(paste0("bs(glu, df=4)[", 1:4, "]"), paste0("bs(glu, df = 4)", 1:4)),
               "df = 4" = "df=4"),
     tests = list(list("bs(glu, df=4)", zero(paste0("bs(glu, df=4)[", 1:4, "]")))),
     smaller = list(list(formula = type ~ glu + ped + age, keywords = list(formula = "type ~ glu + ped + age")),
                    list(formula = type ~ age, keywords = list(formula = "type ~ age"))))

# Sum contrasts, named after the levels as in the tests; with them types 3 do not depend on reference levels.
sum_coded <- function(x) {
  x <- factor(x)
  contrasts(x) <- contr.sum(nlevels(x))
  colnames(contrasts(x)) <- paste0("[S.", levels(x)[-nlevels(x)], "]")
  x
}
case("nwtco_sum", "nwtco.csv", rel ~ histol * stage,
     list(formula = "rel ~ C(histol, sum) * C(stage, sum)"), inflated = FALSE,
     names = c(histol = "C(histol, sum)", stage = "C(stage, sum)"),
     prepare = function(d) { d$histol <- sum_coded(d$histol); d$stage <- sum_coded(d$stage); d })
