# Rao's score tests of candidate terms for fits of real data sets, from R, as JSON for tests/inference/test_screening.py.
#
#   Rscript scripts/make_screening_references.R REFERENCE_DIR
#
# Reads REFERENCE_DIR/data/*.csv (make_references.R wrote them) and writes REFERENCE_DIR/screening/*.json. A fit
# is glm's with epsilon = 1e-15, run again from its own answer until nothing moves. The statistic of a candidate
# without missing values is that of anova(fit, update(fit, . ~ . + z), test = "Rao"), which has to agree with the
# definition computed by QR here to 1e-9. anova cannot compare fits of different rows, so where a candidate has
# missing values the stored statistic is the definition's, at the coefficients of all rows over the rows that
# have it; anova's, after a refit on these rows, is stored beside it as `refitted`. One-step estimates are
# Newton's from the fit. Packages: R alone, and jsonlite for writing.

arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 1)
reference_dir <- arguments[1]
dir.create(file.path(reference_dir, "screening"), showWarnings = FALSE)
tight <- glm.control(epsilon = 1e-15, maxit = 100)

converged <- function(arguments) {
  fit <- suppressWarnings(do.call(glm, c(arguments, list(control = tight))))
  for (round in 1:20) {
    again <- suppressWarnings(do.call(glm, c(arguments, list(control = tight, start = coef(fit)))))
    moved <- max(abs(coef(again) - coef(fit)))
    fit <- again
    if (moved == 0) break
  }
  fit
}

# What of the columns of Z is left after those of X are taken out with weights c, by QR on square roots.
left_of <- function(X, Z, c) {
  root <- sqrt(c)
  qr.resid(qr(X * root, tol = 1e-14), Z * root) / ifelse(root > 0, root, 1)
}

# The definition: U = Z'r - Z'CX (X'CX)^-1 X'r = (what is left of Z)'r, and A = left' C left.
score_test <- function(X, Z, r, c) {
  left <- left_of(X, Z, c)
  norms <- sqrt(colSums(left^2 * c))
  kept <- norms > 1e-7 * sqrt(colSums(Z^2 * c))
  left <- left[, kept, drop = FALSE]
  decomposed <- qr(left * sqrt(c), tol = 1e-9)
  rank <- decomposed$rank
  columns <- decomposed$pivot[seq_len(rank)]
  U <- crossprod(left[, columns, drop = FALSE], r)
  half <- backsolve(qr.R(decomposed)[seq_len(rank), seq_len(rank), drop = FALSE], U, transpose = TRUE)
  found <- list(df = rank, statistic = sum(half^2))
  if (ncol(Z) == 1 && rank == 1) {
    A <- sum(left^2 * c)
    found$estimate <- as.numeric(U) / A
    found$std_error <- 1 / sqrt(A)
  }
  found
}

case <- function(name, data, fit, null, candidates, y, trials = NULL, weights = NULL, offset = NULL) {
  d <- read.csv(file.path(reference_dir, "data", data), na.strings = "", check.names = FALSE)
  n <- if (is.null(trials)) rep(1, nrow(d)) else d[[trials]]
  d$successes <- y(d)
  d$share <- ifelse(n > 0, d$successes / n, 0)
  d$size <- n * (if (is.null(weights)) 1 else d[[weights]])
  d$shift <- if (is.null(offset)) 0 else d[[offset]]
  whole <- as.formula(paste("share ~", null))
  fitted_on <- function(formula, rows) {
    converged(list(formula = formula, family = quote(binomial), data = rows, weights = quote(size),
                   offset = quote(shift)))
  }
  null_fit <- fitted_on(whole, d)
  tests <- list()
  for (term in names(candidates)) {
    wanted <- as.formula(paste("~", null, "+", candidates[[term]]))
    there <- complete.cases(d[, all.vars(wanted), drop = FALSE])
    rows <- d[there, ]
    X <- model.matrix(as.formula(paste("~", null)), rows)
    both <- model.matrix(wanted, rows)
    # All columns of the larger model that the smaller one lacks by name; those that repeat it are found by QR.
    Z <- both[, !(colnames(both) %in% colnames(X)), drop = FALSE]
    eta <- as.numeric(X %*% coef(null_fit)) + rows$shift
    p <- plogis(eta)
    q <- plogis(-eta)
    test <- score_test(X, Z, rows$size * (rows$share * q - (1 - rows$share) * p), rows$size * p * q)
    of_numbers <- !grepl("factor", candidates[[term]]) &&
      all(vapply(rows[, all.vars(as.formula(paste("~", candidates[[term]]))), drop = FALSE], is.numeric, TRUE))
    if (!of_numbers) test <- test[c("df", "statistic")]
    small <- if (all(there)) null_fit else fitted_on(whole, rows)
    # Without start values: only the residuals of the smaller fit matter for Rao's statistic.
    large <- suppressWarnings(glm(as.formula(paste("share", deparse1(wanted))), binomial, rows,
                                  weights = size, offset = shift))
    compared <- suppressWarnings(anova(small, large, test = "Rao"))
    stopifnot(compared$Df[2] == test$df)
    if (all(there)) {
      stopifnot(abs(compared$Rao[2] - test$statistic) < 1e-9 * test$statistic)
      test$statistic <- compared$Rao[2]
    } else {
      test$refitted <- compared$Rao[2]
    }
    test$p_value <- pchisq(test$statistic, test$df, lower.tail = FALSE)
    test$rows_missing <- sum(!there)
    test$call <- paste("anova(fit, update(fit, . ~ . +", candidates[[term]], '), test = "Rao")')
    tests[[term]] <- test
  }
  adjusted <- p.adjust(vapply(tests, function(test) test$p_value, 0), "BH")
  for (term in names(tests)) tests[[term]]$p_adjusted <- adjusted[[term]]
  written <- list(data = data, fit = fit, null = null, tests = tests)
  path <- file.path(reference_dir, "screening", paste0(name, ".json"))
  writeLines(jsonlite::toJSON(written, auto_unbox = TRUE, digits = I(17), pretty = 1), path)
}

same <- function(names) setNames(as.list(names), names)

case("birthwt", "birthwt.csv", list(formula = "low ~ age + lwt"), "age + lwt",
     c(same(c("race", "smoke", "ptl", "ht", "ui", "ftv", "log(lwt)", "age:lwt")),
       list("C(race)" = "factor(race)", "I(age**2)" = "I(age^2)", "C(race):age" = "factor(race):age",
            "C(race):C(smoke)" = "factor(race):factor(smoke)", "smoke:ftv" = "smoke:ftv")),
     function(d) d$low)
case("pima_missing", "pima_tr2.csv", list(formula = "type ~ npreg + glu + age"), "npreg + glu + age",
     c(same(c("bp", "skin", "bmi", "ped", "bp:age")), list("C(skin)" = "factor(skin)")),
     function(d) as.integer(d$type == "Yes"))
case("infert", "infert.csv", list(formula = "case ~ spontaneous + education"), "spontaneous + education",
     c(same(c("age", "parity", "induced", "education:spontaneous", "education:age")),
       list("C(induced)" = "factor(induced)", "C(parity)" = "factor(parity)")),
     function(d) d$case)
case("fair", "fair.csv", list(formula = "affair ~ rate_marriage + C(occupation)"),
     "rate_marriage + factor(occupation)",
     c(same(c("age", "yrs_married", "children", "religious", "educ", "occupation_husb")),
       list("C(occupation_husb)" = "factor(occupation_husb)",
            "rate_marriage:C(occupation)" = "rate_marriage:factor(occupation)",
            "C(occupation):C(occupation_husb)" = "factor(occupation):factor(occupation_husb)",
            "yrs_married:rate_marriage" = "yrs_married:rate_marriage")),
     function(d) d$affair)
case("esoph", "esoph.csv", list(formula = "ncases ~ agegp", trials = "n"), "agegp",
     same(c("alcgp", "tobgp", "alcgp:tobgp")), function(d) d$ncases, trials = "n")
case("snails", "snails.csv",
     list(target = "Deaths", features = I("Species"), trials = "N", offset = "log_exposure"), "Species",
     list("Rel.Hum" = "Rel.Hum", "Temp" = "Temp", "Species:Temp" = "Species:Temp", "C(Temp)" = "factor(Temp)"),
     function(d) d$Deaths, trials = "N", offset = "log_exposure")
case("nwtco_analytic", "nwtco.csv",
     list(formula = "rel ~ age + C(histol)", weights = "weight", weight_type = "analytic"),
     "age + factor(histol)",
     c(same(c("stage", "age:stage")),
       list("C(stage)" = "factor(stage)", "age:C(histol)" = "age:factor(histol)",
            "C(stage):C(histol)" = "factor(stage):factor(histol)")),
     function(d) d$rel, weights = "weight")
case("titanic", "titanic.csv", list(formula = "Survived ~ Class", weights = "Freq"), "Class",
     same(c("Sex", "Age", "Class:Sex", "Sex:Age")), function(d) as.integer(d$Survived == "Yes"),
     weights = "Freq")
case("pima_offset", "pima_te.csv", list(formula = "type ~ npreg", offset = "earlier"), "npreg",
     same(c("bmi", "ped", "bmi:ped")), function(d) as.integer(d$type == "Yes"), offset = "earlier")
case("no_intercept", "spector.csv", list(formula = "GRADE ~ 0 + GPA"), "0 + GPA",
     c(same(c("TUCE", "PSI", "TUCE:PSI")), list("C(PSI)" = "factor(PSI)")), function(d) d$GRADE)
