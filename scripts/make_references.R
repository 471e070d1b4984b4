# Fits every stored reference case with R's glm and writes the data as CSV and the results as JSON.
# glm stops when the deviance stops moving, which leaves coefficients with half of their digits;
# here it runs with epsilon = 1e-15 and restarts from its own answer until nothing moves. Run it
# through make_references.py, which first writes the three data sets that statsmodels ships and
# afterwards checks each number against a Newton iteration in 50 digits.
#
#   Rscript scripts/make_references.R REFERENCE_DIR DESIGN_DIR
#
# REFERENCE_DIR gets data/*.csv and *.json, DESIGN_DIR the design matrices as exact hexadecimal
# floating-point numbers. Packages: MASS, survival, boot, all of R's recommended set.

suppressPackageStartupMessages({
  library(MASS)
  library(survival)
  library(boot)
})
arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 2)
reference_dir <- arguments[1]
design_dir <- arguments[2]

# ------------------------------------------------------------ names

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
  levels <- sort(unique(as.character(x)), method = "radix")
  x <- factor(as.character(x), levels = levels)
  if (is.null(reference)) x else relevel(x, ref = reference)
}

# ------------------------------------------------------------ writing

# Shortest of 15 or 17 digits that reads back as the same double.
digits <- function(x) {
  short <- sprintf("%.15g", x)
  exact <- !is.na(x) & suppressWarnings(as.numeric(short)) == x
  ifelse(exact, short, sprintf("%.17g", x))
}

write_data <- function(data, name) {
  cell <- function(x) {
    text <- if (is.logical(x)) ifelse(x, "true", "false")
      else if (is.integer(x)) sprintf("%d", x)
      else if (is.numeric(x)) digits(x)
      else as.character(x)
    ifelse(is.na(x), "", text)
  }
  lines <- do.call(paste, c(lapply(unname(as.list(data)), cell), sep = ","))
  writeLines(c(paste(names(data), collapse = ","), lines), file.path(reference_dir, "data", name))
}

column_types <- function(data) {
  lapply(as.list(data), function(x) {
    if (is.logical(x)) "bool" else if (is.integer(x)) "int64" else if (is.numeric(x)) "double"
    else "string"
  })
}

# Lists with names are objects, lists without and vectors longer than one are arrays; I(x) is always
# an array. Missing numbers are null.
to_json <- function(x, indent = "") {
  deeper <- paste0(indent, "  ")
  if (is.null(x)) return("null")
  if (is.list(x) && !is.null(names(x))) {
    if (length(x) == 0) return("{}")
    values <- vapply(x, to_json, "", indent = deeper)
    body <- paste0(deeper, vapply(names(x), encodeString, "", quote = '"'), ": ", values)
    return(paste0("{\n", paste(body, collapse = ",\n"), "\n", indent, "}"))
  }
  scalar <- function(v) {
    if (is.na(v)) "null"
    else if (is.character(v)) encodeString(v, quote = '"')
    else if (is.logical(v)) tolower(as.character(v))
    else if (v == round(v) && abs(v) < 1e15) sprintf("%.0f", v)
    else sprintf("%.17g", v)
  }
  if (inherits(x, "AsIs") || is.list(x) || length(x) != 1) {
    return(paste0("[", paste(vapply(unclass(x), scalar, ""), collapse = ", "), "]"))
  }
  scalar(x)
}

# ------------------------------------------------------------ fitting

# glm.fit calls a column aliased when less than min(1e-7, epsilon / 1000) of it is left, so at 1e-15
# no column ever is. Cases with aliased columns keep the default epsilon and rely on the restarts.
tight <- glm.control(epsilon = 1e-15, maxit = 100)

# The call, run with this control and again from its own answer until no coefficient moves.
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

# Log-likelihood at the linear predictor: stable in both tails, weights of any kind, and with the
# binomial coefficients where rows are counts. R's own logLik rounds weights that are not whole.
log_likelihood <- function(successes, trials, weight, eta) {
  used <- weight > 0
  successes <- successes[used]; trials <- trials[used]; weight <- weight[used]; eta <- eta[used]
  sum(weight * (lchoose(trials, successes)
    + successes * plogis(eta, log.p = TRUE)
    + (trials - successes) * plogis(-eta, log.p = TRUE)))
}

# One case: evaluates `call` on `frame` (named d inside the call) and writes NAME.json.
#   keywords   what streamlr.fit gets besides the data
#   stored     the data frame that was written as CSV; `frame` has its factors and reference levels
#   expanded   for frequency weights: the same call on one row per observation, for nobs and df
#   back       matrix that maps the fitted coefficients to those of the stored columns, when R fits
#              better conditioned columns; raw_design then gives the stored columns
#   control    glm.control() where columns are aliased, see above
#   filtered   rows of `stored` that the case's row filter keeps
reference <- function(name, covers, source, file, stored, frame, call, keywords,
                      expanded = NULL, back = NULL, raw_design = NULL,
                      filtered = rep(TRUE, nrow(stored)), dropped_by = NULL,
                      control = tight) {
  fit <- converged_glm(call, frame, control)
  model <- model.frame(fit)
  design <- model.matrix(fit)
  weight_kind <- if (is.null(keywords$weight_type)) "none" else keywords$weight_type
  response <- model.response(model)
  if (is.matrix(response)) {
    successes <- response[, 1]
    trials <- rowSums(response)
    weight <- rep(1, length(trials))
  } else {
    successes <- as.numeric(fit$y)
    trials <- rep(1, length(successes))
    weight <- if (weight_kind == "none") trials else model.weights(model)
  }
  offset <- model.offset(model)
  if (is.null(offset)) offset <- rep(0, length(successes))

  coefficients <- coef(fit)
  kept <- !is.na(coefficients)
  covariance <- matrix(NA_real_, length(kept), length(kept))
  covariance[kept, kept] <- summary(fit)$cov.unscaled
  names <- term_names(names(coefficients))
  log_lik <- log_likelihood(successes, trials, weight, fit$linear.predictors)
  if (!is.null(back)) {
    coefficients <- drop(back %*% coefficients)
    covariance <- back %*% covariance %*% t(back)
    design <- raw_design
    names <- term_names(colnames(raw_design))
  }
  std_error <- sqrt(diag(covariance))
  z <- coefficients / std_error

  null_call <- quote(glm(cbind(successes, trials - successes) ~ 1, family = binomial,
                         weights = weight, offset = offset))
  null_frame <- list(successes = successes, trials = trials, weight = weight, offset = offset,
                     tight = tight)
  null_call$control <- quote(tight)
  null_call$subset <- quote(weight > 0)
  null_fit <- suppressWarnings(eval(null_call, null_frame, globalenv()))
  null_log_lik <- log_likelihood(successes[weight > 0], trials[weight > 0], weight[weight > 0],
                                 null_fit$linear.predictors)
  if (attr(terms(fit), "intercept") == 1) {
    stopifnot(abs(fit$null.deviance - null_fit$deviance) < 1e-9 * (1 + null_fit$deviance))
  }
  if (weight_kind != "analytic") stopifnot(abs(log_lik - logLik(fit)) < 1e-9 * abs(log_lik))

  rank <- fit$rank
  nobs <- sum(weight > 0)
  if (weight_kind == "frequency") {
    whole <- converged_glm(expanded$call, expanded$frame)
    stopifnot(max(abs(coef(whole) - coef(fit)), na.rm = TRUE) < 1e-10,
              nobs(whole) == sum(weight), whole$df.residual == sum(weight) - rank,
              abs(BIC(whole) - (-2 * log_lik + rank * log(sum(weight)))) < 1e-8)
    nobs <- nobs(whole)
  }
  deviance <- fit$deviance

  used_columns <- if (is.null(dropped_by)) character() else dropped_by
  dropped <- vapply(used_columns, function(column) sum(is.na(stored[filtered, column])), 0)
  dropped <- as.list(dropped[dropped > 0])
  rows_read <- sum(filtered)
  stopifnot(rows_read - nrow(model) == sum(!complete.cases(stored[filtered, used_columns])))

  unit <- function(x) unname(x)
  shown <- gsub("\\s+", " ", paste(deparse(call, width.cutoff = 500), collapse = " "))
  result <- list(
    case = name, covers = covers, source = source, call = shown,
    data = file, columns = column_types(stored), fit = keywords,
    tolerance = 1e-8, computed_by = R.version.string,
    terms = I(names), aliased = I(names[!kept]),
    coefficients = I(unit(coefficients)), std_error = I(unit(std_error)), z = I(unit(z)),
    p_value = I(unit(2 * pnorm(-abs(z)))),
    log_likelihood = log_lik, null_log_likelihood = null_log_lik,
    deviance = deviance, null_deviance = null_fit$deviance,
    aic = -2 * log_lik + 2 * rank, bic = -2 * log_lik + rank * log(nobs),
    nobs = nobs, df_model = rank - 1, df_resid = nobs - rank,
    rows_read = rows_read, rows_used = nrow(model), rows_dropped = rows_read - nrow(model),
    dropped = if (length(dropped)) dropped else structure(list(), names = character())
  )
  writeLines(to_json(result), file.path(reference_dir, paste0(name, ".json")))

  exact <- cbind(successes, trials, weight, offset, design)
  hexadecimal <- matrix(sprintf("%a", exact), nrow(exact))
  header <- c("successes", "trials", "weight", "offset", names)
  writeLines(c(paste(header, collapse = "\t"), apply(hexadecimal, 1, paste, collapse = "\t")),
             file.path(design_dir, paste0(name, ".tsv")))
  cat(sprintf("%-24s %5d rows, %2d terms\n", name, nrow(model), length(names)))
}

origin <- function(package, dataset) {
  sprintf("%s::%s (%s %s)", package, dataset, package, as.character(packageVersion(package)))
}

# ------------------------------------------------------------ birth weight

d <- birthwt[setdiff(names(birthwt), "bwt")]
write_data(d, "birthwt.csv")
reference(
  "birthwt", "a numeric column made categorical among numeric ones", origin("MASS", "birthwt"),
  "birthwt.csv", d, d,
  quote(glm(low ~ age + lwt + factor(race) + smoke + ptl + ht + ui + ftv, binomial, d)),
  list(target = "low", features = I(c("age", "lwt", "race", "smoke", "ptl", "ht", "ui", "ftv")),
       categorical = I("race"))
)

d <- data.frame(
  low = birthwt$low == 1, age = birthwt$age, lwt = birthwt$lwt,
  race = c("white", "black", "other")[birthwt$race], smoke = birthwt$smoke == 1,
  ht = birthwt$ht == 1
)
write_data(d, "birthwt_text.csv")
reference(
  "birthwt_text", "text and boolean features, a boolean target, a chosen reference level",
  paste(origin("MASS", "birthwt"), "with race as text and 0/1 columns as booleans"),
  "birthwt_text.csv", d, transform(d, race = text_factor(race, "white")),
  quote(glm(low ~ age + lwt + race + smoke + ht, binomial, d)),
  list(target = "low", features = I(c("age", "lwt", "race", "smoke", "ht")),
       reference = list(race = "white"))
)
reference(
  "birthwt_formula", "a formula: log, a power, a boolean interacting with text and with a number",
  paste(origin("MASS", "birthwt"), "with race as text and 0/1 columns as booleans"),
  "birthwt_text.csv", d, transform(d, race = text_factor(race)),
  quote(glm(low ~ age + I(age^2) + log(lwt) + race * smoke + age:ht, binomial, d)),
  list(formula = "low ~ age + I(age**2) + log(lwt) + race * smoke + age:ht")
)

d <- transform(birthwt[c("low", "age", "lwt", "smoke", "ptl", "ftv")], visits = ptl + ftv)
write_data(d, "birthwt_sum.csv")
reference(
  "aliased_sum", "an exactly aliased numeric column: visits = ptl + ftv has no estimate",
  paste(origin("MASS", "birthwt"), "with visits = ptl + ftv added"),
  "birthwt_sum.csv", d, d, quote(glm(low ~ age + lwt + smoke + ptl + ftv + visits, binomial, d)),
  list(target = "low", features = I(c("age", "lwt", "smoke", "ptl", "ftv", "visits"))),
  control = glm.control()
)

# The stored column lies near 1e9, where doubles are 1.2e-7 apart: the rounded values are the data.
# The fit is on their exact difference from 1e9, and the intercept goes back by b0 - 1e9 b1.
d <- transform(birthwt[c("low", "age", "smoke")], lwt = birthwt$lwt * 1e-3 + 1e9)
write_data(d, "birthwt_shifted.csv")
reference(
  "shifted", "a badly scaled column: mean 1e9, standard deviation 0.03",
  paste(origin("MASS", "birthwt"), "with lwt stored as lwt * 1e-3 + 1e9"),
  "birthwt_shifted.csv", d, d, quote(glm(low ~ age + smoke + I(lwt - 1e9), binomial, d)),
  list(target = "low", features = I(c("age", "smoke", "lwt"))),
  back = rbind(c(1, 0, 0, -1e9), c(0, 1, 0, 0), c(0, 0, 1, 0), c(0, 0, 0, 1)),
  raw_design = model.matrix(~ age + smoke + lwt, d)
)

# ------------------------------------------------------------ case control

d <- infert[c("case", "education", "age", "parity", "induced", "spontaneous")]
write_data(d, "infert.csv")
reference(
  "infert", "text levels that begin with digits, in code-point order; a target of doubles 0, 1",
  origin("datasets", "infert"), "infert.csv", d, transform(d, education = text_factor(education)),
  quote(glm(case ~ education + age + parity + induced + spontaneous, binomial, d)),
  list(target = "case",
       features = I(c("education", "age", "parity", "induced", "spontaneous")))
)

d <- data.frame(
  agegp = as.character(esoph$agegp), alcgp = as.character(esoph$alcgp),
  tobgp = as.character(esoph$tobgp), ncases = as.integer(esoph$ncases),
  n = as.integer(esoph$ncases + esoph$ncontrols)
)
write_data(d, "esoph.csv")
factors <- transform(d, agegp = text_factor(agegp), alcgp = text_factor(alcgp),
                     tobgp = text_factor(tobgp))
reference(
  "esoph", "binomial counts with three text factors, a third of the rows without a success",
  paste(origin("datasets", "esoph"), "with plain factors and n = ncases + ncontrols"),
  "esoph.csv", d, factors,
  quote(glm(cbind(ncases, n - ncases) ~ agegp + alcgp + tobgp, binomial, d)),
  list(target = "ncases", features = I(c("agegp", "alcgp", "tobgp")), trials = "n")
)

# ------------------------------------------------------------ counts

d <- data.frame(Age = menarche$Age, Total = as.integer(menarche$Total),
                Menarche = as.integer(menarche$Menarche))
write_data(d, "menarche.csv")
reference(
  "menarche", "binomial counts, one steep slope, rows of all and of no successes",
  origin("MASS", "menarche"), "menarche.csv", d, d,
  quote(glm(cbind(Menarche, Total - Menarche) ~ Age, binomial, d)),
  list(target = "Menarche", features = I("Age"), trials = "Total")
)

d <- data.frame(age = downs.bc$age, m = as.integer(downs.bc$m), r = as.integer(downs.bc$r))
write_data(d, "downs.csv")
reference(
  "downs", "rare events in up to 24,807 trials a row, so the binomial coefficients are large",
  origin("boot", "downs.bc"), "downs.csv", d, d,
  quote(glm(cbind(r, m - r) ~ age + I(age^2), binomial, d)),
  list(formula = "r ~ age + I(age**2)", trials = "m")
)

d <- data.frame(Species = as.character(snails$Species), Rel.Hum = snails$Rel.Hum,
                Temp = snails$Temp, Deaths = snails$Deaths, N = snails$N,
                log_exposure = log(snails$Exposure))
write_data(d, "snails.csv")
reference(
  "snails", "binomial counts with an offset, and a column name with a dot",
  paste(origin("MASS", "snails"), "with log_exposure = log(Exposure) added"),
  "snails.csv", d, transform(d, Species = text_factor(Species)),
  quote(glm(cbind(Deaths, N - Deaths) ~ Species + Rel.Hum + Temp, binomial, d,
            offset = log_exposure)),
  list(target = "Deaths", features = I(c("Species", "Rel.Hum", "Temp")), trials = "N",
       offset = "log_exposure")
)

d <- read.csv(file.path(reference_dir, "data", "star98.csv"))
d$NTOTAL <- as.integer(d$NTOTAL)
d$NABOVE <- as.integer(d$NABOVE)
for (column in setdiff(names(d), c("NTOTAL", "NABOVE"))) d[[column]] <- as.numeric(d[[column]])
features <- setdiff(names(d), c("NTOTAL", "NABOVE"))
call <- quote(glm(formula, binomial, d))
call$formula <- reformulate(features, quote(cbind(NABOVE, NTOTAL - NABOVE)))
call[[2]] <- NULL
reference(
  "star98", "counts with 20 correlated columns, standard deviations from 0.6 to 12,000",
  "statsmodels.datasets.star98 with NTOTAL = NABOVE + NBELOW", "star98.csv", d, d, call,
  list(target = "NABOVE", features = I(features), trials = "NTOTAL")
)

# ------------------------------------------------------------ statsmodels

d <- read.csv(file.path(reference_dir, "data", "spector.csv"), colClasses = "numeric")
reference(
  "spector", "32 rows of doubles, the textbook example", "statsmodels.datasets.spector",
  "spector.csv", d, d, quote(glm(GRADE ~ GPA + TUCE + PSI, binomial, d)),
  list(target = "GRADE", features = I(c("GPA", "TUCE", "PSI")))
)
reference(
  "no_intercept", "a formula without intercept; the null model still has one, as in statsmodels",
  "statsmodels.datasets.spector", "spector.csv", d, d,
  quote(glm(GRADE ~ 0 + GPA + TUCE + PSI, binomial, d)),
  list(formula = "GRADE ~ 0 + GPA + TUCE + PSI")
)

d <- read.csv(file.path(reference_dir, "data", "fair.csv"))
integers <- c("rate_marriage", "religious", "educ", "occupation", "occupation_husb", "affair")
for (column in integers) d[[column]] <- as.integer(d[[column]])
reference(
  "fair", "6,366 rows, two numeric columns made categorical",
  "statsmodels.datasets.fair with affair = affairs > 0", "fair.csv", d, d,
  quote(glm(affair ~ factor(occupation) + educ + factor(occupation_husb) + rate_marriage + age +
              yrs_married + children + religious, binomial, d)),
  list(target = "affair",
       features = I(c("occupation", "educ", "occupation_husb", "rate_marriage", "age",
                      "yrs_married", "children", "religious")),
       categorical = I(c("occupation", "occupation_husb")))
)

# ------------------------------------------------------------ missing values

d <- transform(Pima.tr2, type = as.character(type))
write_data(d, "pima_tr2.csv")
features <- c("npreg", "glu", "bp", "skin", "bmi", "ped", "age")
reference(
  "pima_missing", "a third of the rows dropped, some for two columns; a text target",
  origin("MASS", "Pima.tr2"), "pima_tr2.csv", d, transform(d, type = text_factor(type)),
  quote(glm(type ~ npreg + glu + bp + skin + bmi + ped + age, binomial, d)),
  list(target = "type", features = I(features)), dropped_by = c("type", features)
)

features <- c("age", "sex", "ph.ecog", "ph.karno", "pat.karno", "meal.cal", "wt.loss")
d <- transform(lung[c("status", features)], sex = as.integer(sex), status = as.integer(status))
write_data(d, "lung.csv")
reference(
  "lung", "a target of 1 and 2, nulls in five columns, a numeric reference level that is not first",
  origin("survival", "lung"), "lung.csv", d,
  transform(d, sex = relevel(factor(sex), ref = "2"), status = factor(status)) |>
    setNames(c("status", "age", "C(sex)", features[-(1:2)])),
  quote(glm(status ~ age + `C(sex)` + ph.ecog + ph.karno + pat.karno + meal.cal + wt.loss,
            binomial, d)),
  list(target = "status", features = I(features), categorical = I("sex"),
       reference = list(sex = 2)),
  dropped_by = features
)

features <- c("rx", "sex", "age", "obstruct", "perfor", "adhere", "nodes", "differ", "extent",
              "surg")
d <- transform(colon[c("etype", "status", features)], rx = as.character(rx),
               etype = as.integer(etype), status = as.integer(status), sex = as.integer(sex),
               obstruct = as.integer(obstruct), perfor = as.integer(perfor),
               adhere = as.integer(adhere), nodes = as.integer(nodes),
               differ = as.integer(differ), extent = as.integer(extent), surg = as.integer(surg))
write_data(d, "colon.csv")
reference(
  "colon", "a row filter, nulls in a number and in a factor, a reference level that is not first",
  origin("survival", "colon"), "colon.csv", d, transform(d, rx = text_factor(rx, "Obs")),
  quote(glm(status ~ rx + sex + age + obstruct + perfor + adhere + nodes + factor(differ) +
              factor(extent) + surg, binomial, d, subset = etype == 2)),
  list(target = "status", features = I(features), categorical = I(c("differ", "extent")),
       reference = list(rx = "Obs"), where = "etype == 2"),
  filtered = d$etype == 2, dropped_by = features
)

features <- paste0("V", 1:9)
d <- transform(biopsy[c(features, "class")], class = as.character(class))
write_data(d, "biopsy.csv")
reference(
  "biopsy", "almost separated classes: fitted probabilities from 7e-4 to 1 - 4e-8",
  origin("MASS", "biopsy"), "biopsy.csv", d, transform(d, class = text_factor(class)),
  quote(glm(class ~ V1 + V2 + V3 + V4 + V5 + V6 + V7 + V8 + V9, binomial, d)),
  list(target = "class", features = I(features)), dropped_by = features
)

# ------------------------------------------------------------ weights

d <- as.data.frame(Titanic)
d <- data.frame(Class = as.character(d$Class), Sex = as.character(d$Sex),
                Age = as.character(d$Age), Survived = as.character(d$Survived),
                Freq = as.integer(d$Freq))
write_data(d, "titanic.csv")
factors <- transform(d, Class = text_factor(Class), Sex = text_factor(Sex),
                     Age = text_factor(Age), Survived = text_factor(Survived))
reference(
  "titanic", "frequency weights, some of them zero; degrees of freedom of the 2,201 people",
  origin("datasets", "Titanic"), "titanic.csv", d, factors,
  quote(glm(Survived ~ Class + Sex + Age, binomial, d, weights = Freq)),
  list(target = "Survived", features = I(c("Class", "Sex", "Age")), weights = "Freq",
       weight_type = "frequency"),
  expanded = list(frame = factors[rep(seq_len(nrow(d)), d$Freq), ],
                  call = quote(glm(Survived ~ Class + Sex + Age, binomial, d)))
)

d <- as.data.frame(UCBAdmissions)
d <- data.frame(Admit = as.character(d$Admit), Gender = as.character(d$Gender),
                Dept = as.character(d$Dept), Freq = as.integer(d$Freq))
write_data(d, "ucb.csv")
factors <- transform(d, Admit = text_factor(Admit, "Rejected"), Gender = text_factor(Gender),
                     Dept = text_factor(Dept))
reference(
  "ucb", "frequency weights, a chosen positive level, a factor by factor interaction",
  origin("datasets", "UCBAdmissions"), "ucb.csv", d, factors,
  quote(glm(Admit ~ Gender * Dept, binomial, d, weights = Freq)),
  list(formula = "Admit ~ Gender * Dept", positive = "Admitted", weights = "Freq",
       weight_type = "frequency"),
  expanded = list(frame = factors[rep(seq_len(nrow(d)), d$Freq), ],
                  call = quote(glm(Admit ~ Gender * Dept, binomial, d)))
)

# A case-cohort sample: every relapse, and the subcohort's other patients at the inverse of their
# sampling fraction, 3457/583. Patients outside the sample weigh zero.
fraction <- with(nwtco, sum(rel == 0) / sum(rel == 0 & in.subcohort))
d <- data.frame(rel = nwtco$rel, histol = nwtco$histol, stage = nwtco$stage, age = nwtco$age,
                weight = with(nwtco, ifelse(rel == 1, 1, ifelse(in.subcohort, fraction, 0))))
write_data(d, "nwtco.csv")
reference(
  "nwtco_analytic", "analytic weights that are not whole, most of them zero",
  paste(origin("survival", "nwtco"), "with inverse sampling fractions of its case-cohort design"),
  "nwtco.csv", d, d,
  quote(glm(rel ~ factor(histol) + factor(stage) + age, binomial, d, weights = weight)),
  list(target = "rel", features = I(c("histol", "stage", "age")),
       categorical = I(c("histol", "stage")), weights = "weight", weight_type = "analytic")
)

# ------------------------------------------------------------ offset

earlier <- converged_glm(quote(glm(type ~ glu, binomial, d)), Pima.tr)
d <- data.frame(type = as.character(Pima.te$type), npreg = Pima.te$npreg, bmi = Pima.te$bmi,
                ped = Pima.te$ped, earlier = unname(predict(earlier, Pima.te)))
write_data(d, "pima_te.csv")
reference(
  "pima_offset", "an offset: the log-odds of an earlier model, updated with three more columns",
  paste(origin("MASS", "Pima.te"), "with earlier = predict(glm(type ~ glu, binomial, Pima.tr))"),
  "pima_te.csv", d, transform(d, type = text_factor(type)),
  quote(glm(type ~ npreg + bmi + ped, binomial, d, offset = earlier)),
  list(target = "type", features = I(c("npreg", "bmi", "ped")), offset = "earlier")
)

# ------------------------------------------------------------ more factors

d <- data.frame(y = as.character(bacteria$y), ap = as.character(bacteria$ap),
                hilo = as.character(bacteria$hilo), week = bacteria$week,
                trt = as.character(bacteria$trt))
write_data(d, "bacteria.csv")
reference(
  "bacteria", "a factor of three levels, one name a prefix of another, and one number",
  origin("MASS", "bacteria"), "bacteria.csv", d,
  transform(d, y = text_factor(y), trt = text_factor(trt, "placebo")),
  quote(glm(y ~ trt + week, binomial, d)),
  list(target = "y", features = I(c("trt", "week")), reference = list(trt = "placebo"))
)
reference(
  "aliased_nested", "a factor nested in another: ap, active or placebo, leaves one level of trt",
  origin("MASS", "bacteria"), "bacteria.csv", d,
  transform(d, y = text_factor(y), ap = text_factor(ap), hilo = text_factor(hilo),
            trt = text_factor(trt, "placebo")),
  quote(glm(y ~ week + ap + hilo + trt, binomial, d)),
  list(target = "y", features = I(c("week", "ap", "hilo", "trt")),
       reference = list(trt = "placebo")),
  control = glm.control()
)

d <- data.frame(state = as.character(Aids2$state), sex = as.character(Aids2$sex),
                T.categ = as.character(Aids2$T.categ), age = Aids2$age,
                status = as.character(Aids2$status))
write_data(d, "aids2.csv")
reference(
  "aids2", "2,843 rows, three text factors, one with a level of seven rows",
  origin("MASS", "Aids2"), "aids2.csv", d,
  transform(d, state = text_factor(state), sex = text_factor(sex), T.categ = text_factor(T.categ),
            status = text_factor(status)),
  quote(glm(status ~ state + sex + T.categ + age, binomial, d)),
  list(target = "status", features = I(c("state", "sex", "T.categ", "age")))
)

# ------------------------------------------------------------ hard numbers

d <- mtcars[c("am", "wt", "hp")]
write_data(d, "mtcars.csv")
reference(
  "mtcars", "32 rows, nearly separated, coefficients and errors of very different size",
  origin("datasets", "mtcars"), "mtcars.csv", d, d, quote(glm(am ~ wt + hp, binomial, d)),
  list(target = "am", features = I(c("wt", "hp")))
)

# The stored powers are exact integers. The fit is on powers of year - 1970; the expansion of
# (year - 1970)^k maps coefficients and covariance back.
d <- with(Melanoma, data.frame(
  died = as.integer(status == 1), thickness = thickness, ulcer = ulcer,
  year = year, year2 = as.numeric(year)^2, year3 = as.numeric(year)^3
))
write_data(d, "melanoma.csv")
centre <- 1970
back <- diag(6)
for (power in 0:3) for (lower in 0:power) {
  place <- c(1, 4, 5, 6)
  back[place[lower + 1], place[power + 1]] <- choose(power, lower) * (-centre)^(power - lower)
}
reference(
  "year_cubed", "year, its square and its cube in raw units: condition number 2e18",
  paste(origin("MASS", "Melanoma"), "with died = status == 1 and stored powers of year"),
  "melanoma.csv", d, d,
  quote(glm(died ~ thickness + ulcer + I(year - 1970) + I((year - 1970)^2) + I((year - 1970)^3),
            binomial, d)),
  list(target = "died", features = I(c("thickness", "ulcer", "year", "year2", "year3"))),
  back = back, raw_design = model.matrix(~ thickness + ulcer + year + year2 + year3, d)
)

# ------------------------------------------------------------ iris

d <- setNames(iris, c("sepal_length", "sepal_width", "petal_length", "petal_width", "species"))
d$species <- as.character(d$species)
write_data(d, "iris.csv")
reference(
  "iris", "versicolor against virginica, selected by a filter on the text target",
  origin("datasets", "iris"), "iris.csv", d,
  transform(d, species = factor(species, levels = c("versicolor", "virginica"))),
  quote(glm(species ~ sepal_length + sepal_width + petal_length + petal_width, binomial, d,
            subset = species != "setosa")),
  list(target = "species",
       features = I(c("sepal_length", "sepal_width", "petal_length", "petal_width")),
       where = "species != 'setosa'"),
  filtered = d$species != "setosa"
)
