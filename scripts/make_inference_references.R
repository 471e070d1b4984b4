# Robust covariances and profile-likelihood intervals of real data sets, from R, as JSON for the tests. Run it
# through make_inference_references.py, which afterwards compares with statsmodels.
#
#   Rscript scripts/make_inference_references.R REFERENCE_DIR
#
# Reads REFERENCE_DIR/data/*.csv (make_references.R wrote them), writes two more of them with cluster columns, and
# REFERENCE_DIR/inference/*.json. Every fit is glm's iterated to its fixpoint and then polished by Newton on
# standardised columns by QR; the coefficients must agree with glm's. Covariances are computed from their
# definitions at those coefficients and must agree with sandwich's, which is given one row an observation: counts
# and frequency weights are expanded, since sandwich takes a row of k successes in n as one observation. Bounds are
# roots found by uniroot on constrained glm fits, polished to 1e-12; MASS's confint interpolates.
# Packages: MASS, survival (recommended), sandwich, jsonlite.

suppressPackageStartupMessages({
  library(MASS)
  library(survival)
  library(sandwich)
})
arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 1)
reference_dir <- arguments[1]
dir.create(file.path(reference_dir, "inference"), showWarnings = FALSE)

# ------------------------------------------------------------ names and files

# Treatment contrasts whose columns are called [T.level], so that R itself makes the term names.
contr.named <- function(n, ...) {
  coding <- contr.treatment(n, ...)
  colnames(coding) <- paste0("[T.", colnames(coding), "]")
  coding
}
options(contrasts = c("contr.named", "contr.poly"))

term_names <- function(names) {
  names <- gsub("`", "", names, fixed = TRUE)
  names <- gsub("(Intercept)", "Intercept", names, fixed = TRUE)
  names <- gsub("factor(", "C(", names, fixed = TRUE)
  names <- gsub("[T.TRUE]", "[T.True]", names, fixed = TRUE)
  gsub("^", "**", names, fixed = TRUE)
}

# Text as a factor with its levels in code-point order, the first (or the named one) as reference.
text_factor <- function(x, reference = NULL) {
  x <- factor(as.character(x), levels = sort(unique(as.character(x)), method = "radix"))
  if (is.null(reference)) x else relevel(x, ref = reference)
}

# What the stored CSV files mean: true and false are logical, an empty field is missing.
stored <- function(name) {
  data <- read.csv(file.path(reference_dir, "data", name), na.strings = "", check.names = FALSE)
  for (column in names(data)) {
    if (is.character(data[[column]]) && all(data[[column]] %in% c("true", "false"))) {
      data[[column]] <- data[[column]] == "true"
    }
  }
  data
}

kinds <- function(data) {
  lapply(as.list(data), function(x) {
    if (is.logical(x)) "bool" else if (is.integer(x)) "int64" else if (is.numeric(x)) "double" else "string"
  })
}

# ------------------------------------------------------------ the fit

tight <- glm.control(epsilon = 1e-15, maxit = 100)

converged_glm <- function(call, frame, control = tight) {
  call$control <- control
  fit <- suppressWarnings(eval(call, list(d = frame), globalenv()))
  for (round in 1:20) {
    again <- call
    start <- coef(fit)
    start[is.na(start)] <- 0
    again$start <- start
    polished <- suppressWarnings(eval(again, list(d = frame), globalenv()))
    moved <- max(abs(coef(polished) - coef(fit)), na.rm = TRUE)
    fit <- polished
    if (moved == 0) break
  }
  fit
}

# Successes, failures, weight, offset and design of the rows of a fit, in the columns that have an estimate.
# `kind`: what its weights are; with frequency weights a row stands for that many.
rows_of <- function(fit, kind) {
  response <- model.response(model.frame(fit))
  weight <- if (kind == "none") rep(1, NROW(response)) else unname(model.weights(model.frame(fit)))
  if (is.matrix(response)) {
    stopifnot(kind == "none")
    successes <- unname(response[, 1])
    failures <- unname(response[, 2])
  } else {
    successes <- unname(as.numeric(fit$y))
    failures <- 1 - successes
  }
  offset <- model.offset(model.frame(fit))
  design <- model.matrix(fit)[, !is.na(coef(fit)), drop = FALSE]
  list(successes = successes, failures = failures, weight = weight,
       offset = if (is.null(offset)) rep(0, length(weight)) else unname(offset), X = design)
}

log_likelihood <- function(rows, eta) {
  sum(rows$weight * (rows$successes * plogis(eta, log.p = TRUE)
                     + rows$failures * plogis(-eta, log.p = TRUE)))
}

# Newton's method in columns of mean zero and unit size, each step a least-squares problem by QR: coefficients and
# the inverse information of the raw columns. `map` turns standardised into raw coefficients.
polish <- function(rows, start) {
  X <- rows$X
  constant <- which(apply(X, 2, function(x) all(x == x[1])))
  centre <- if (length(constant) == 1) colMeans(X) else rep(0, ncol(X))
  centre[constant] <- 0
  Z <- sweep(X, 2, centre)
  size <- apply(abs(Z), 2, max)
  Z <- sweep(Z, 2, size, "/")
  map <- diag(1 / size, ncol(X))
  if (length(constant) == 1) map[constant, ] <- map[constant, ] - centre / size
  gamma <- solve(map, start)
  used <- rows$weight > 0
  for (round in 1:50) {
    eta <- drop(Z %*% gamma) + rows$offset
    p <- plogis(eta); q <- plogis(-eta)
    curvature <- rows$weight * (rows$successes + rows$failures) * p * q
    slope <- rows$weight * (rows$successes * q - rows$failures * p)
    root <- sqrt(curvature[used])
    factored <- qr(root * Z[used, , drop = FALSE], LAPACK = FALSE, tol = 0)
    step <- qr.coef(factored, slope[used] / root)
    gamma <- gamma + step
    A <- chol2inv(qr.R(factored))[order(factored$pivot), order(factored$pivot), drop = FALSE]
    if (max(abs(step) / sqrt(diag(A))) < 1e-14) break
  }
  stopifnot(max(abs(step) / sqrt(diag(A))) < 1e-12)
  eta <- drop(Z %*% gamma) + rows$offset
  list(coef = drop(map %*% gamma), eta = eta, Z = Z, A = A, map = map)
}

# ------------------------------------------------------------ covariances by definition

# Rows as units: successes and failures apart, each with its number of observations `times` and its weight `w`.
units_of <- function(rows, kind, clusters) {
  frequency <- kind == "frequency"
  successes <- rows$successes * (if (frequency) rows$weight else 1)
  failures <- rows$failures * (if (frequency) rows$weight else 1)
  place <- c(seq_along(successes), seq_along(failures))
  times <- c(successes, failures)
  w <- rep(if (frequency) rep(1, length(successes)) else rows$weight, 2)
  y <- rep(c(1, 0), each = length(successes))
  kept <- times > 0 & w > 0
  list(place = place[kept], times = times[kept], w = w[kept], y = y[kept],
       clusters = lapply(clusters, function(x) as.character(x)[place[kept]]))
}

# The covariance named by `what`, of a polished fit.
covariance <- function(fit, units, what) {
  Z <- fit$Z[units$place, , drop = FALSE]
  eta <- fit$eta[units$place]
  score <- units$w * ifelse(units$y == 1, plogis(-eta), -plogis(eta))
  hat <- units$w * plogis(eta) * plogis(-eta) * rowSums((Z %*% fit$A) * Z)
  n <- sum(units$times)
  k <- ncol(Z)
  groups <- NULL
  if (what$cov != "cluster") {
    square <- score^2 * switch(what$cov, HC0 = 1, HC1 = n / (n - k), HC2 = 1 / (1 - hat), HC3 = 1 / (1 - hat)^2)
    meat <- crossprod(Z * sqrt(units$times * square))
  } else {
    of <- function(group) {
      sums <- rowsum(units$times * score * Z, group)
      g <- nrow(sums)
      groups <<- c(groups, g)
      factor <- switch(what$small_sample, none = 1, clusters = g / (g - 1),
                       full = g / (g - 1) * (n - 1) / (n - k))
      factor * crossprod(sums)
    }
    columns <- units$clusters[what$cluster]
    meat <- of(columns[[1]])
    if (length(columns) == 2) {
      meat <- meat + of(columns[[2]])
      meat <- meat - of(interaction(columns[[1]], columns[[2]], drop = TRUE))
    }
  }
  bread <- fit$map %*% fit$A
  list(V = bread %*% meat %*% t(bread), groups = groups)
}

# The same from sandwich, at a glm fit of one row an observation.
from_sandwich <- function(whole, clusters, what) {
  if (what$cov != "cluster") return(vcovHC(whole, type = what$cov))
  vcovCL(whole, cluster = clusters[what$cluster], cadjust = what$small_sample != "none",
         type = if (what$small_sample == "full") "HC1" else "HC0")
}

shown_call <- function(what) {
  if (what$cov != "cluster") return(sprintf("sandwich::vcovHC(fit, type = '%s')", what$cov))
  sprintf("sandwich::vcovCL(fit, cluster = ~ %s, type = '%s', cadjust = %s)",
          paste(what$cluster, collapse = " + "), if (what$small_sample == "full") "HC1" else "HC0",
          what$small_sample != "none")
}

hc <- lapply(paste0("HC", 0:3), function(type) list(cov = type))
clustered <- function(...) {
  lapply(c("none", "clusters", "full"),
         function(small) list(cov = "cluster", cluster = c(...), small_sample = small))
}

write_json <- function(result, name) {
  text <- jsonlite::toJSON(result, auto_unbox = TRUE, digits = I(17), pretty = TRUE, null = "null", na = "null")
  writeLines(text, file.path(reference_dir, "inference", paste0(name, ".json")))
}

# One case. `frame` is the data as R needs them, `data` as they are stored; `call` a glm of `d`. `keywords` is what
# streamlr.fit gets; `covariances` a list of list(cov, cluster, small_sample). `weights` names the column of weights,
# which `call` must use unless the rows are counts: then the weights are put in here. `back`: raw coefficients from
# those of the call, where R fits better conditioned columns.
# `full`: whether whole covariances are stored, or standard errors only.
case <- function(name, covers, source, file, data, frame, call, keywords, covariances,
                 full = TRUE, back = NULL, back_names = NULL, control = tight, wanted = names(frame)) {
  kind <- if (is.null(keywords$weight_type)) "none" else keywords$weight_type
  fit <- converged_glm(call, frame, control)
  used <- if (is.null(fit$na.action)) seq_len(nrow(frame)) else seq_len(nrow(frame))[-fit$na.action]
  counts <- is.matrix(model.response(model.frame(fit)))
  rows <- rows_of(fit, if (counts) "none" else kind)
  start <- unname(coef(fit)[!is.na(coef(fit))])
  if (counts && kind != "none") {
    rows$weight <- frame[used, keywords$weights]
    start <- rep(0, length(start))
  }
  exact <- polish(rows, start)
  error <- sqrt(diag(exact$map %*% exact$A %*% t(exact$map)))
  if (!(counts && kind != "none")) stopifnot(max(abs(exact$coef - start) / error) < 1e-8)
  names <- term_names(names(coef(fit)))[!is.na(coef(fit))]
  if (!is.null(back)) {
    exact$map <- back %*% exact$map
    exact$coef <- drop(back %*% exact$coef)
    names <- back_names
  }
  units <- units_of(rows, kind, frame[used, wanted, drop = FALSE])

  # One row an observation, for sandwich.
  place <- used[rep(units$place, units$times)]
  longer <- frame[place, , drop = FALSE]
  longer$observed <- rep(units$y, units$times)
  longer$each <- rep(units$w, units$times)
  whole_call <- call
  whole_call[[2]][[2]] <- quote(observed)
  whole_call$weights <- quote(each)
  whole_call$subset <- NULL
  whole <- converged_glm(whole_call, longer, control)
  stopifnot(nobs(whole) == sum(units$times))

  k <- length(exact$coef)
  log_lik <- log_likelihood(rows, exact$eta) +
    sum(rows$weight * lchoose(rows$successes + rows$failures, rows$successes))
  nobs <- if (kind == "frequency") sum(rows$weight) else sum(rows$weight > 0)
  worst <- 0
  found <- lapply(covariances, function(what) {
    ours <- covariance(exact, units, what)
    theirs <- unname(from_sandwich(whole, longer, what))
    theirs <- theirs[!is.na(diag(theirs)), !is.na(diag(theirs))]
    if (!is.null(back)) theirs <- back %*% theirs %*% t(back)
    scale <- sqrt(abs(diag(ours$V)))
    worst <<- max(worst, abs(theirs - ours$V) / outer(scale, scale))
    variance <- diag(ours$V)
    if (any(variance <= 0)) {
      # A difference of two-way clusters need not be a covariance: no standard error then.
      stopifnot(length(what$cluster) == 2)
      cat(sprintf("  %s by %s: %d negative variances\n", name, paste(what$cluster, collapse = " and "),
                  sum(variance <= 0)))
      variance[variance <= 0] <- NA
    }
    list(options = lapply(what, I), call = shown_call(what), clusters = I(as.integer(ours$groups)),
         std_error = I(unname(sqrt(variance))), covariance = if (full) unname(ours$V) else NULL)
  })
  for (i in seq_along(found)) {
    options <- covariances[[i]]
    if (!is.null(options$cluster)) options$cluster <- I(options$cluster)
    found[[i]]$options <- options
  }
  if (worst > 1e-8) stop(sprintf("%s: %.0e from sandwich", name, worst))
  write_json(list(
    case = name, covers = covers, source = source, call = paste(deparse(call, width.cutoff = 500), collapse = " "),
    one_row_an_observation = counts || kind == "frequency", data = file, columns = kinds(data), fit = keywords,
    computed_by = paste(R.version.string, "sandwich", packageVersion("sandwich")),
    difference_from_sandwich = signif(worst, 1),
    terms = I(names), coefficients = I(unname(exact$coef)),
    naive_std_error = I(unname(sqrt(diag(exact$map %*% exact$A %*% t(exact$map))))),
    log_likelihood = log_lik, nobs = nobs, observations = sum(units$times), df_resid = nobs - k,
    bic = -2 * log_lik + k * log(nobs), rows_dropped = nrow(frame) - length(used), covariances = found
  ), name)
  cat(sprintf("%-26s %6d observations, %2d terms, %.0e from sandwich\n", name, sum(units$times), k, worst))
}

origin <- function(package, dataset) {
  sprintf("%s::%s (%s %s)", package, dataset, package, as.character(packageVersion(package)))
}

# ------------------------------------------------------------ data with clusters

write.csv(data.frame(case = as.integer(infert$case), education = as.character(infert$education),
                     age = as.integer(infert$age), parity = as.integer(infert$parity),
                     induced = as.integer(infert$induced), spontaneous = as.integer(infert$spontaneous),
                     stratum = as.integer(infert$stratum)),
          file.path(reference_dir, "data", "infert_strata.csv"), row.names = FALSE, quote = FALSE)
write.csv(data.frame(y = as.character(bacteria$y), trt = as.character(bacteria$trt), week = bacteria$week,
                     patient = as.character(bacteria$ID)),
          file.path(reference_dir, "data", "bacteria_patients.csv"), row.names = FALSE, quote = FALSE)
d <- lung[c("status", "age", "sex", "ph.ecog", "wt.loss", "inst")]
write.csv(d, file.path(reference_dir, "data", "lung_institutions.csv"), row.names = FALSE, quote = FALSE, na = "")

# ------------------------------------------------------------ robust covariances: rows

d <- stored("birthwt.csv")
birthwt_call <- quote(glm(low ~ age + lwt + factor(race) + smoke + ptl + ht + ui + ftv, binomial, d))
birthwt_keywords <- list(target = "low",
                         features = I(c("age", "lwt", "race", "smoke", "ptl", "ht", "ui", "ftv")),
                         categorical = I("race"))
case("birthwt", "whole numbers as clusters that are features as well, one and two ways",
     origin("MASS", "birthwt"), "birthwt.csv", d, d, birthwt_call, birthwt_keywords,
     c(hc, clustered("age"), clustered("age", "lwt")))

d <- stored("birthwt_text.csv")
case("birthwt_formula", "powers, a logarithm, factor by factor and factor by number; truth values and text as clusters",
     origin("MASS", "birthwt"), "birthwt_text.csv", d, transform(d, race = text_factor(race)),
     quote(glm(low ~ age + I(age^2) + log(lwt) + race * smoke + age:ht, binomial, d)),
     list(formula = "low ~ age + I(age**2) + log(lwt) + race * smoke + age:ht"),
     c(hc, clustered("age"), clustered("race"), clustered("ht"), clustered("lwt", "age")))

d <- stored("infert_strata.csv")
case("infert", "matched strata as clusters, one and two ways", origin("datasets", "infert"), "infert_strata.csv", d,
     transform(d, education = text_factor(education)),
     quote(glm(case ~ education + age + parity + induced + spontaneous, binomial, d)),
     list(target = "case", features = I(c("education", "age", "parity", "induced", "spontaneous"))),
     c(hc, clustered("stratum"), clustered("stratum", "age")))

d <- stored("bacteria_patients.csv")
case("bacteria", "patients (text) as clusters of repeated measurements, weeks the other way",
     origin("MASS", "bacteria"), "bacteria_patients.csv", d,
     transform(d, y = text_factor(y), trt = text_factor(trt, "placebo")),
     quote(glm(y ~ trt + week, binomial, d)),
     list(target = "y", features = I(c("trt", "week")), reference = list(trt = "placebo")),
     c(hc, clustered("patient"), clustered("patient", "week")))

d <- stored("bacteria.csv")
case("aliased", "aliased terms have no part in k", origin("MASS", "bacteria"), "bacteria.csv", d,
     transform(d, y = text_factor(y), ap = text_factor(ap), hilo = text_factor(hilo),
               trt = text_factor(trt, "placebo")),
     quote(glm(y ~ week + ap + hilo + trt, binomial, d)),
     list(target = "y", features = I(c("week", "ap", "hilo", "trt")), reference = list(trt = "placebo")),
     c(hc, clustered("week")), control = glm.control())

d <- stored("pima_te.csv")
case("pima_offset", "an offset", origin("MASS", "Pima.te"), "pima_te.csv", d, transform(d, type = text_factor(type)),
     quote(glm(type ~ npreg + bmi + ped, binomial, d, offset = earlier)),
     list(target = "type", features = I(c("npreg", "bmi", "ped")), offset = "earlier"),
     c(hc, clustered("npreg"), clustered("bmi")))

d <- stored("pima_tr2.csv")
features <- c("npreg", "glu", "bp", "skin", "bmi", "ped", "age")
case("pima_missing", "rows with nulls have no part in n", origin("MASS", "Pima.tr2"), "pima_tr2.csv", d,
     transform(d, type = text_factor(type)),
     quote(glm(type ~ npreg + glu + bp + skin + bmi + ped + age, binomial, d)),
     list(target = "type", features = I(features)), c(hc, clustered("age", "npreg")))

d <- stored("lung_institutions.csv")
lung_frame <- transform(d, sex = relevel(factor(sex), ref = "2"), status = factor(status)) |>
  setNames(c("status", "age", "C(sex)", "ph.ecog", "wt.loss", "inst"))
lung_call <- quote(glm(status ~ age + `C(sex)` + ph.ecog + wt.loss, binomial, d))
lung_keywords <- list(target = "status", features = I(c("age", "sex", "ph.ecog", "wt.loss")),
                      categorical = I("sex"), reference = list(sex = 2))
case("lung", "nulls in features; the clusters are not asked for and their null drops nothing",
     origin("survival", "lung"), "lung_institutions.csv", d, lung_frame, lung_call, lung_keywords, hc)
lung_call$subset <- quote(!is.na(inst))
case("lung_institutions", "a row whose cluster is missing is dropped", origin("survival", "lung"),
     "lung_institutions.csv", d, lung_frame[!is.na(lung_frame$inst), ], lung_call, lung_keywords,
     c(clustered("inst"), clustered("inst", "age")))

d <- stored("spector.csv")
case("no_intercept", "a formula without intercept", "statsmodels.datasets.spector", "spector.csv", d, d,
     quote(glm(GRADE ~ 0 + GPA + TUCE + PSI, binomial, d)), list(formula = "GRADE ~ 0 + GPA + TUCE + PSI"), hc)

d <- stored("mtcars.csv")
case("mtcars", "32 rows, nearly separated: a hat value of 0.5", origin("datasets", "mtcars"), "mtcars.csv", d, d,
     quote(glm(am ~ wt + hp, binomial, d)), list(target = "am", features = I(c("wt", "hp"))),
     c(hc, clustered("hp")))

d <- stored("fair.csv")
case("fair", "6,366 rows, two factors of numbers, fractional and whole numbers as clusters",
     "statsmodels.datasets.fair with affair = affairs > 0", "fair.csv", d, d,
     quote(glm(affair ~ factor(occupation) + educ + factor(occupation_husb) + rate_marriage + age + yrs_married +
                 children + religious, binomial, d)),
     list(target = "affair",
          features = I(c("occupation", "educ", "occupation_husb", "rate_marriage", "age", "yrs_married", "children",
                         "religious")),
          categorical = I(c("occupation", "occupation_husb"))),
     c(hc, clustered("educ"), clustered("yrs_married"), clustered("age", "children")), full = FALSE)

d <- stored("birthwt_shifted.csv")
case("shifted", "a badly scaled column: mean 1e9, standard deviation 0.03",
     paste(origin("MASS", "birthwt"), "with lwt stored as lwt * 1e-3 + 1e9"), "birthwt_shifted.csv", d, d,
     quote(glm(low ~ age + smoke + I(lwt - 1e9), binomial, d)),
     list(target = "low", features = I(c("age", "smoke", "lwt"))), c(hc, clustered("age")),
     back = rbind(c(1, 0, 0, -1e9), c(0, 1, 0, 0), c(0, 0, 1, 0), c(0, 0, 0, 1)),
     back_names = c("Intercept", "age", "smoke", "lwt"))

# ------------------------------------------------------------ robust covariances: counts

d <- stored("esoph.csv")
case("esoph", "counts: the covariance of the rows of single trials; text clusters, one and two ways",
     origin("datasets", "esoph"), "esoph.csv", d,
     transform(d, agegp = text_factor(agegp), alcgp = text_factor(alcgp), tobgp = text_factor(tobgp)),
     quote(glm(cbind(ncases, n - ncases) ~ agegp + alcgp + tobgp, binomial, d)),
     list(target = "ncases", features = I(c("agegp", "alcgp", "tobgp")), trials = "n"),
     c(hc, clustered("agegp"), clustered("n")))

d <- stored("snails.csv")
snails_frame <- transform(d, Species = text_factor(Species))
snails_call <- quote(glm(cbind(Deaths, N - Deaths) ~ Species + Rel.Hum + Temp, binomial, d, offset = log_exposure))
snails_keywords <- list(target = "Deaths", features = I(c("Species", "Rel.Hum", "Temp")), trials = "N",
                        offset = "log_exposure")
case("snails", "counts with an offset; fractional clusters", origin("MASS", "snails"), "snails.csv", d, snails_frame,
     snails_call, snails_keywords, c(hc, clustered("Rel.Hum"), clustered("log_exposure")))
for (kind in c("frequency", "analytic")) {
  case(paste0("snails_", kind), sprintf("counts with an offset and %s weights (the temperature)", kind),
       origin("MASS", "snails"), "snails.csv", d, snails_frame,
       quote(glm(cbind(Deaths, N - Deaths) ~ Species + Rel.Hum, binomial, d, offset = log_exposure)),
       list(target = "Deaths", features = I(c("Species", "Rel.Hum")), trials = "N", offset = "log_exposure",
            weights = "Temp", weight_type = kind),
       c(hc, clustered("Rel.Hum"), clustered("Temp")))
}

# In raw columns glm and sandwich keep six digits, in standardised ones seven; R fits orthogonal ones.
d <- stored("star98.csv")
features <- setdiff(names(d), c("NTOTAL", "NABOVE"))
centre <- colMeans(d[features])
size <- apply(d[features], 2, sd)
back <- diag(c(1, 1 / size))
back[1, -1] <- -centre / size
orthogonal <- qr(cbind(1, scale(d[features], centre, size)), LAPACK = TRUE)
back <- back[, orthogonal$pivot] %*% solve(qr.R(orthogonal))
case("star98", "counts with 20 correlated columns, standard deviations from 0.6 to 12,000",
     "statsmodels.datasets.star98 with NTOTAL = NABOVE + NBELOW", "star98.csv", d,
     data.frame(d[c("NABOVE", "NTOTAL")], q = I(qr.Q(orthogonal))),
     quote(glm(cbind(NABOVE, NTOTAL - NABOVE) ~ 0 + q, binomial, d)),
     list(target = "NABOVE", features = I(features), trials = "NTOTAL"), hc, full = FALSE, back = back,
     back_names = c("Intercept", features), wanted = character())

# ------------------------------------------------------------ robust covariances: weights

d <- stored("titanic.csv")
case("titanic", "frequency weights, some of them zero; text clusters", origin("datasets", "Titanic"), "titanic.csv",
     d, transform(d, Class = text_factor(Class), Sex = text_factor(Sex), Age = text_factor(Age),
                  Survived = text_factor(Survived)),
     quote(glm(Survived ~ Class + Sex + Age, binomial, d, weights = Freq)),
     list(target = "Survived", features = I(c("Class", "Sex", "Age")), weights = "Freq", weight_type = "frequency"),
     c(hc, clustered("Class")))

d <- stored("ucb.csv")
case("ucb", "frequency weights with a factor by factor interaction", origin("datasets", "UCBAdmissions"), "ucb.csv",
     d, transform(d, Admit = text_factor(Admit, "Rejected"), Gender = text_factor(Gender), Dept = text_factor(Dept)),
     quote(glm(Admit ~ Gender * Dept, binomial, d, weights = Freq)),
     list(formula = "Admit ~ Gender * Dept", positive = "Admitted", weights = "Freq", weight_type = "frequency"),
     hc)

d <- stored("nwtco.csv")
nwtco_keywords <- list(target = "rel", features = I(c("histol", "stage", "age")),
                       categorical = I(c("histol", "stage")), weights = "weight")
for (kind in c("analytic", "sampling")) {
  case(paste0("nwtco_", kind),
       sprintf("%s weights that are not whole, most of them zero: rows of weight zero are no observations", kind),
       paste(origin("survival", "nwtco"), "with inverse sampling fractions of its case-cohort design"),
       "nwtco.csv", d, d,
       quote(glm(rel ~ factor(histol) + factor(stage) + age, binomial, d, weights = weight)),
       c(nwtco_keywords, list(weight_type = kind)), c(hc, clustered("age"), clustered("age", "stage")))
}

# The same weights, the age in years, as each of the three kinds.
d <- stored("birthwt.csv")
for (kind in c("frequency", "analytic", "sampling")) {
  case(paste0("birthwt_", kind), sprintf("whole weights as %s weights", kind), origin("MASS", "birthwt"),
       "birthwt.csv", d, d, quote(glm(low ~ lwt + factor(race) + smoke, binomial, d, weights = age)),
       list(target = "low", features = I(c("lwt", "race", "smoke")), categorical = I("race"), weights = "age",
            weight_type = kind),
       c(hc, clustered("ftv"), clustered("lwt", "ftv")))
}

# ------------------------------------------------------------ profile likelihood

# Twice the fall of the log-likelihood below its maximum when coefficient j is b, the others at their best.
constrained <- function(rows, j, b, start) {
  fixed <- rows
  fixed$X <- rows$X[, -j, drop = FALSE]
  fixed$offset <- rows$offset + rows$X[, j] * b
  coef <- start
  used <- rows$weight > 0
  for (round in 1:200) {
    eta <- drop(fixed$X %*% coef) + fixed$offset
    p <- plogis(eta); q <- plogis(-eta)
    curvature <- rows$weight * (rows$successes + rows$failures) * p * q
    slope <- rows$weight * (rows$successes * q - rows$failures * p)
    size <- apply(abs(fixed$X), 2, max)
    H <- crossprod(sweep(fixed$X, 2, size, "/") * sqrt(curvature))
    g <- crossprod(sweep(fixed$X, 2, size, "/"), slope)
    step <- drop(solve(H, g, tol = 0))
    now <- log_likelihood(rows, eta)
    share <- 1
    while (log_likelihood(rows, drop(fixed$X %*% (coef + share * step / size)) + fixed$offset) <
           now - 1e-9 && share > 1e-6) share <- share / 2
    coef <- coef + share * step / size
    if (share == 1 && sum(g * step) < 1e-28) break
  }
  stopifnot(sum(g * step) < 1e-20)
  eta <- drop(fixed$X %*% coef) + fixed$offset
  slope <- rows$weight * (rows$successes * plogis(-eta) - rows$failures * plogis(eta))
  list(coef = coef, log_lik = log_likelihood(rows, eta), slope = sum(slope * rows$X[, j]))
}

# glm's own deviance with coefficient j fixed at b, converged: what the bound is checked against.
glm_constrained <- function(rows, j, b, start) {
  trials <- rows$successes + rows$failures
  fit <- suppressWarnings(glm.fit(rows$X[, -j, drop = FALSE], rows$successes / trials, rows$weight * trials,
                                  start = start, offset = rows$offset + rows$X[, j] * b, family = binomial(), control = tight,
                                  intercept = FALSE))
  log_likelihood(rows, drop(rows$X[, -j, drop = FALSE] %*% coef(fit)) + rows$offset + rows$X[, j] * b)
}

profile_bound <- function(rows, best, top, V, j, level, side) {
  error <- sqrt(diag(V))
  # Where the other coefficients go to first order.
  along <- function(b) best[-j] + (b - best[j]) * V[-j, j] / V[j, j]
  drop_wanted <- qchisq(level, 1)
  fall <- function(b) 2 * (top - constrained(rows, j, b, along(b))$log_lik) - drop_wanted
  far <- best[j] + side * sqrt(drop_wanted) * error[j]
  while (fall(far) < 0) far <- best[j] + 1.5 * (far - best[j])
  b <- uniroot(fall, sort(c(best[j], far)), tol = 1e-12 * error[j], maxiter = 200)$root
  for (round in 1:3) {
    at <- constrained(rows, j, b, along(b))
    b <- b + (2 * (top - at$log_lik) - drop_wanted) / (2 * at$slope)
  }
  # Near the bound the log-likelihood falls by about qnorm / se a unit, so 1e-9 of it is 1e-10 standard errors.
  stopifnot(abs(2 * (top - glm_constrained(rows, j, b, at$coef)) - drop_wanted) < 1e-9)
  b
}

profiled <- function(name, covers, source, file, data, frame, call, keywords) {
  kind <- if (is.null(keywords$weight_type)) "none" else keywords$weight_type
  fit <- converged_glm(call, frame)
  counts <- is.matrix(model.response(model.frame(fit)))
  rows <- rows_of(fit, if (counts) "none" else kind)
  exact <- polish(rows, unname(coef(fit)))
  stopifnot(!anyNA(coef(fit)))
  V <- exact$map %*% exact$A %*% t(exact$map)
  error <- sqrt(diag(V))
  top <- log_likelihood(rows, exact$eta)
  intervals <- lapply(c("0.95" = 0.95, "0.9" = 0.9), function(level) {
    t(vapply(seq_along(exact$coef), function(j) {
      c(profile_bound(rows, exact$coef, top, V, j, level, -1),
        profile_bound(rows, exact$coef, top, V, j, level, 1))
    }, c(0, 0)))
  })
  interpolated <- suppressWarnings(suppressMessages(confint(fit, level = 0.95)))
  write_json(list(
    case = name, covers = covers, source = source, call = paste(deparse(call, width.cutoff = 500), collapse = " "),
    bounds = "2 (l_max - l_profile(b)) = qchisq(level, 1): uniroot on constrained fits, polished by Newton",
    data = file, columns = kinds(data), fit = keywords, computed_by = R.version.string,
    terms = I(term_names(names(coef(fit)))), coefficients = I(unname(exact$coef)), std_error = I(unname(error)),
    intervals = lapply(intervals, unname),
    confint_is_off_by = signif(max(abs(unname(interpolated) - intervals[["0.95"]]) / error), 1)
  ), paste0("profile_", name))
  cat(sprintf("profile %-18s %2d terms, confint is off by %.0e standard errors\n", name, length(error),
              max(abs(unname(interpolated) - intervals[["0.95"]]) / error)))
}

d <- stored("birthwt.csv")
profiled("birthwt", "a factor among numbers", origin("MASS", "birthwt"), "birthwt.csv", d, d, birthwt_call,
         birthwt_keywords)
d <- stored("birthwt_text.csv")
profiled("birthwt_formula", "a power, a logarithm, factor by factor and factor by number", origin("MASS", "birthwt"),
         "birthwt_text.csv", d, transform(d, race = text_factor(race)),
         quote(glm(low ~ age + I(age^2) + log(lwt) + race * smoke + age:ht, binomial, d)),
         list(formula = "low ~ age + I(age**2) + log(lwt) + race * smoke + age:ht"))
d <- stored("menarche.csv")
profiled("menarche", "counts", origin("MASS", "menarche"), "menarche.csv", d, d,
         quote(glm(cbind(Menarche, Total - Menarche) ~ Age, binomial, d)),
         list(target = "Menarche", features = I("Age"), trials = "Total"))
d <- stored("bacteria_patients.csv")
profiled("bacteria", "few failures", origin("MASS", "bacteria"), "bacteria_patients.csv", d,
         transform(d, y = text_factor(y), trt = text_factor(trt, "placebo")),
         quote(glm(y ~ trt + week, binomial, d)),
         list(target = "y", features = I(c("trt", "week")), reference = list(trt = "placebo")))
d <- stored("mtcars.csv")
profiled("mtcars", "32 rows, nearly separated: upper bounds several times as far as lower ones",
         origin("datasets", "mtcars"), "mtcars.csv", d, d, quote(glm(am ~ wt + hp, binomial, d)),
         list(target = "am", features = I(c("wt", "hp"))))
d <- stored("titanic.csv")
profiled("titanic", "frequency weights", origin("datasets", "Titanic"), "titanic.csv", d,
         transform(d, Class = text_factor(Class), Sex = text_factor(Sex), Age = text_factor(Age),
                   Survived = text_factor(Survived)),
         quote(glm(Survived ~ Class + Sex + Age, binomial, d, weights = Freq)),
         list(target = "Survived", features = I(c("Class", "Sex", "Age")), weights = "Freq",
              weight_type = "frequency"))
d <- stored("nwtco.csv")
profiled("nwtco_analytic", "analytic weights", origin("survival", "nwtco"), "nwtco.csv", d, d,
         quote(glm(rel ~ factor(histol) + factor(stage) + age, binomial, d, weights = weight)),
         c(nwtco_keywords, list(weight_type = "analytic")))
d <- stored("pima_te.csv")
profiled("pima_offset", "an offset", origin("MASS", "Pima.te"), "pima_te.csv", d,
         transform(d, type = text_factor(type)),
         quote(glm(type ~ npreg + bmi + ped, binomial, d, offset = earlier)),
         list(target = "type", features = I(c("npreg", "bmi", "ped")), offset = "earlier"))
d <- stored("snails.csv")
profiled("snails", "counts with an offset, three times as far on one side", origin("MASS", "snails"), "snails.csv", d,
         snails_frame, snails_call, snails_keywords)
