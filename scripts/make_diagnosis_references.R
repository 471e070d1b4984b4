# Diagnoses stored reference fits with R and writes tests/reference/diagnosis/*.json.
#
#   Rscript scripts/make_diagnosis_references.R tests/reference
#
# Each case is one of make_references.R, whose data and log-likelihood it takes; the fit is repeated with
# glm until nothing moves. Packages: jsonlite (to read the cases). From R itself come hatvalues,
# rstandard(type = "pearson"), cooks.distance, the residuals behind the dispersions and, for what a row does
# to the coefficients, one iteration of glm without the row from the coefficients with it. Two things are
# written out here because no package of R's recommended set has them: the Hosmer-Lemeshow test as
# ResourceSelection::hoslem.test 0.3-6 defines it, and the pseudo R squared of Cox and Snell, Nagelkerke and
# Tjur. Rows with a frequency weight of w are w rows to R, rows of n trials are n rows in the groups.
#
# hoslem.test compares probabilities to the last bit. Here they are rounded to twelve digits first, so that
# rows with equal columns are ties however their probabilities were rounded, and degrees of freedom are those
# of the groups that there are.

arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 1)
reference_dir <- arguments[1]
out_dir <- file.path(reference_dir, "diagnosis")
dir.create(out_dir, showWarnings = FALSE)

LISTED <- 12 # rows whose influence is stored: those of largest Cook's distance

# ------------------------------------------------------------ cases

read_data <- function(name, positive = NULL, target = NULL) {
  d <- read.csv(file.path(reference_dir, "data", name), na.strings = "", colClasses = NA)
  for (column in names(d)) {
    if (is.character(d[[column]])) {
      if (all(d[[column]] %in% c("true", "false"))) d[[column]] <- d[[column]] == "true"
      else d[[column]] <- factor(d[[column]], levels = sort(unique(d[[column]]), method = "radix"))
    }
  }
  if (!is.null(positive)) d[[target]] <- as.numeric(d[[target]] == positive)
  d
}

cases <- list(
  birthwt = list(d = read_data("birthwt.csv"),
                 call = quote(glm(low ~ age + lwt + factor(race) + smoke + ptl + ht + ui + ftv, binomial, d))),
  birthwt_formula = list(d = read_data("birthwt_text.csv"),
                         call = quote(glm(low ~ age + I(age^2) + log(lwt) + race * smoke + age:ht, binomial, d))),
  aliased_sum = list(d = read_data("birthwt_sum.csv"),
                     call = quote(glm(low ~ age + lwt + smoke + ptl + ftv + visits, binomial, d))),
  pima_missing = list(d = read_data("pima_tr2.csv"),
                      call = quote(glm(type ~ npreg + glu + bp + skin + bmi + ped + age, binomial, d))),
  pima_offset = list(d = read_data("pima_te.csv"),
                     call = quote(glm(type ~ npreg + bmi + ped, binomial, d, offset = earlier))),
  esoph = list(d = read_data("esoph.csv"), trials = "n", successes = "ncases",
               call = quote(glm(cbind(ncases, n - ncases) ~ agegp + alcgp + tobgp, binomial, d))),
  nwtco_analytic = list(d = read_data("nwtco.csv"), analytic = "weight",
                        call = quote(glm(rel ~ factor(histol) + factor(stage) + age, binomial, d, weights = weight))),
  titanic = list(d = read_data("titanic.csv"), frequency = "Freq",
                 call = quote(glm(Survived ~ Class + Sex + Age, binomial, d)))
)

# ------------------------------------------------------------ writing

to_json <- function(x, indent = "") {
  deeper <- paste0(indent, " ")
  if (is.null(x)) return("null")
  if (is.list(x)) {
    values <- vapply(x, to_json, "", indent = deeper)
    if (!is.null(names(x))) {
      body <- paste0(deeper, vapply(names(x), encodeString, "", quote = '"'), ": ", values)
      return(paste0("{\n", paste(body, collapse = ",\n"), "\n", indent, "}"))
    }
    return(paste0("[\n", paste0(deeper, values, collapse = ",\n"), "\n", indent, "]"))
  }
  scalar <- function(v) {
    if (is.na(v)) "null"
    else if (is.character(v)) encodeString(v, quote = '"')
    else if (v == round(v) && abs(v) < 1e15) sprintf("%.0f", v)
    else sprintf("%.17g", v)
  }
  if (inherits(x, "AsIs") || length(x) != 1) {
    return(paste0("[", paste(vapply(unclass(x), scalar, ""), collapse = ", "), "]"))
  }
  scalar(x)
}

# ------------------------------------------------------------ the numbers

tight <- glm.control(epsilon = 1e-15, maxit = 100)
loose <- glm.control(maxit = 100) # aliased columns are found only with the default epsilon

converged <- function(call, d) {
  call$control <- loose
  fit <- suppressWarnings(eval(call, list(d = d), globalenv()))
  aliased <- anyNA(coef(fit))
  for (round in 1:20) {
    again <- call
    again$control <- if (aliased) loose else tight
    start <- coef(fit)
    start[is.na(start)] <- 0
    again$start <- start
    polished <- suppressWarnings(eval(again, list(d = d), globalenv()))
    moved <- max(abs(coef(polished) - coef(fit)), na.rm = TRUE)
    fit <- polished
    if (moved == 0) break
  }
  fit
}

# coef(fit) less the coefficients after one iteration of glm from there without a row of d.
one_step_change <- function(call, d, fit, row) {
  start <- coef(fit)
  start[is.na(start)] <- 0
  call$start <- start
  call$control <- glm.control(maxit = 1)
  without <- suppressWarnings(eval(call, list(d = d[-row, , drop = FALSE]), globalenv()))
  change <- coef(fit) - coef(without)
  unname(change[!is.na(change)])
}

# ResourceSelection::hoslem.test(y, p, g), with y successes and f failures a row, each counting `count` times.
hosmer_lemeshow <- function(y, f, p, count, g) {
  p <- signif(p, 12)
  breaks <- unique(quantile(rep(p, count), probs = (0:g) / g))
  group <- cut(p, breaks, include.lowest = TRUE)
  observed <- rowsum(cbind(f, y), group)
  expected <- rowsum(cbind((y + f) * (1 - p), (y + f) * p), group)
  statistic <- sum((observed - expected)^2 / expected)
  df <- nrow(observed) - 2
  list(g = g, statistic = statistic, df = df, p_value = pchisq(statistic, df, lower.tail = FALSE),
       n = I(rowSums(observed)), observed = I(observed[, 2]), expected = I(expected[, 2]))
}

rows_of <- function(table) lapply(seq_len(nrow(table)), function(i) as.list(table[i, ]))

diagnose <- function(name, case) {
  d <- case$d
  rows <- seq_len(nrow(d)) # which row of the data each row of R's is
  if (!is.null(case$frequency)) {
    rows <- rep(rows, d[[case$frequency]])
    d <- d[rows, ]
  }
  d$row_ <- rows
  used <- complete.cases(d)
  # R has no leverage of a row without weight.
  if (!is.null(case$analytic)) used <- used & d[[case$analytic]] > 0
  d <- d[used, ]
  fit <- converged(case$call, d)
  stored <- jsonlite::fromJSON(file.path(reference_dir, paste0(name, ".json")))
  p <- fitted(fit)
  eta <- fit$linear.predictors # the offset is in it
  w <- if (is.null(case$analytic)) rep(1, nrow(d)) else d[[case$analytic]]
  n <- if (is.null(case$trials)) rep(1, nrow(d)) else d[[case$trials]]
  k <- if (is.null(case$trials)) as.numeric(fit$y) else d[[case$successes]]
  y <- w * k
  f <- w * (n - k)
  pearson <- sum(residuals(fit, "pearson")^2)
  # logLik rounds fractional weights.
  log_l <- if (is.null(case$analytic)) as.numeric(logLik(fit)) else sum(y * log(p) + f * log(1 - p))
  stopifnot(abs(log_l - stored$log_likelihood) < 1e-9 * abs(stored$log_likelihood))
  log_l0 <- stored$null_log_likelihood
  nobs <- nrow(d)
  cox_snell <- 1 - exp(2 * (log_l0 - log_l) / nobs)
  df_resid <- nobs - fit$rank

  # One row of R's for each row of the data: those that a frequency weight stands for are alike.
  single <- which(!duplicated(d$row_))
  cooks <- cooks.distance(fit, dispersion = 1)
  top <- single[order(-cooks[single])][seq_len(min(LISTED, length(single)))]
  influence <- data.frame(
    row = d$row_[top] - 1,
    leverage = hatvalues(fit)[top],
    pearson_residual = rstandard(fit, type = "pearson", dispersion = 1)[top],
    cooks_distance = cooks[top]
  )
  listed <- rows_of(influence)
  for (i in seq_along(top)) listed[[i]]$dfbeta <- I(one_step_change(case$call, d, fit, top[i]))

  # The step of Pregibon (1981) from the fit with a row to that without it.
  h <- hatvalues(fit)
  slope <- w * (k - n * p)
  eta_without <- eta - h / fit$weights * slope / (1 - h)
  loo <- -sum(y * plogis(eta_without, log.p = TRUE) + f * plogis(-eta_without, log.p = TRUE))
  loo_brier <- sum(y * plogis(-eta_without)^2 + f * plogis(eta_without)^2)

  link <- suppressWarnings(glm(cbind(y, f) ~ eta + I(eta^2), binomial, control = tight,
                               start = c(0, 1, 0)))
  table <- coef(summary(link))
  estimates <- lapply(1:3, function(i) {
    list(estimate = table[i, 1], std_error = table[i, 2], statistic = table[i, 3], p_value = table[i, 4])
  })

  list(
    case = name,
    call = paste(deparse(case$call, width.cutoff = 500), collapse = " "),
    source = R.version.string,
    pearson_chi2 = pearson,
    dispersion = pearson / df_resid,
    deviance = deviance(fit),
    deviance_dispersion = deviance(fit) / df_resid,
    pseudo_r2 = list(
      mcfadden = 1 - log_l / log_l0,
      cox_snell = cox_snell,
      nagelkerke = cox_snell / (1 - exp(2 * log_l0 / nobs)),
      tjur = sum(y * p) / sum(y) - sum(f * p) / sum(f)
    ),
    log_loss = -sum(y * log(p) + f * log(1 - p)) / sum(y + f),
    brier = sum(y * (1 - p)^2 + f * p^2) / sum(y + f),
    loo_log_loss = loo / sum(y + f),
    loo_brier = loo_brier / sum(y + f),
    hosmer_lemeshow = lapply(c(10, 7), function(g) hosmer_lemeshow(y, f, p, n, g)),
    link_test = list(intercept = estimates[[1]], hat = estimates[[2]], hatsq = estimates[[3]]),
    influential = listed
  )
}

for (name in names(cases)) {
  writeLines(to_json(diagnose(name, cases[[name]])), file.path(out_dir, paste0(name, ".json")))
}
