# Firth's penalised likelihood of real data sets, from R, as JSON for tests/inference/test_firth.py.
#
#   Rscript scripts/make_firth_references.R REFERENCE_DIR
#
# Reads REFERENCE_DIR/data/*.csv (make_references.R wrote them), writes REFERENCE_DIR/data/endometrial.csv from
# brglm2 and REFERENCE_DIR/firth/*.json. Estimates and standard errors are those of brglm2, whose tolerance is
# lowered until its adjusted scores are rounding. Tests and bounds are of the penalised log-likelihood
# l(b) + log det I(b) / 2, with I the information of all columns under a hypothesis too, as in logistf: maximised
# over the free coefficients by scoring with exact leverages, and bounds found by uniroot on the maxima. The
# maximiser has to agree with brglm2 to 1e-9. Packages: brglm2, and jsonlite for writing.

suppressPackageStartupMessages(library(brglm2))
arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 1)
reference_dir <- arguments[1]
dir.create(file.path(reference_dir, "firth"), showWarnings = FALSE)
data_file <- function(name) file.path(reference_dir, "data", name)

contr.named <- function(n, ...) {
  coding <- contr.treatment(n, ...)
  colnames(coding) <- paste0("[T.", colnames(coding), "]")
  coding
}
options(contrasts = c("contr.named", "contr.poly"))

data(endometrial, package = "brglm2")
write.csv(endometrial, data_file("endometrial.csv"), row.names = FALSE, quote = FALSE)

# ------------------------------------------------------------ the penalised likelihood

# rows: X, k successes in n trials, weight w, offset o
information <- function(rows, b) {
  eta <- drop(rows$X %*% b) + rows$o
  p <- plogis(eta); q <- plogis(-eta)
  crossprod(rows$X * sqrt(rows$w * rows$n * p * q))
}

penalised <- function(rows, b) {
  eta <- drop(rows$X %*% b) + rows$o
  plain <- sum(rows$w * (rows$k * plogis(eta, log.p = TRUE) + (rows$n - rows$k) * plogis(-eta, log.p = TRUE)))
  binomial <- sum(rows$w * lchoose(rows$n, rows$k))
  plain + binomial + as.numeric(determinant(information(rows, b))$modulus) / 2
}

score <- function(rows, b) {
  eta <- drop(rows$X %*% b) + rows$o
  p <- plogis(eta); q <- plogis(-eta)
  root <- sqrt(rows$w * rows$n * p * q)
  h <- rowSums(qr.Q(qr(rows$X * root))^2)
  drop(crossprod(rows$X, rows$w * (rows$k - rows$n * p) + h * (0.5 - p)))
}

# The maximum over the coefficients that are free, from b.
maximum <- function(rows, b, free = rep(TRUE, length(b))) {
  if (!any(free)) return(b)
  value <- penalised(rows, b)
  smallest <- Inf
  for (round in 1:20000) {
    step <- solve(information(rows, b)[free, free, drop = FALSE], score(rows, b)[free])
    decrement <- sum(step * score(rows, b)[free])
    if (decrement < 1e-26) return(b)
    share <- 1
    repeat {
      trial <- b
      trial[free] <- b[free] + share * step
      there <- penalised(rows, trial)
      if (is.finite(there) && there >= value - 1e-12 * abs(value)) break
      share <- share / 2
      stopifnot(share > 1e-12)
    }
    b <- trial
    value <- there
    if (decrement < 1e-20) {
      if (decrement >= smallest) return(b)
      smallest <- decrement
    }
  }
  stop("not converged: ", decrement)
}

bound <- function(rows, best, j, side, level) {
  top <- penalised(rows, best)
  free <- seq_along(best) != j
  error <- sqrt(diag(solve(information(rows, best))))[j]
  from <- best
  excess <- function(value) {
    from[j] <<- value
    from <<- maximum(rows, from, free)
    2 * (top - penalised(rows, from)) - qchisq(level, 1)
  }
  far <- best[j] + side * error
  while (excess(far) < 0) far <- far + side * error
  near <- far - side * error
  uniroot(excess, sort(c(near, far)), tol = 1e-13)$root
}

# ------------------------------------------------------------ cases

case <- function(name, covers, source, file, keywords, formula, data, o = NULL, w = NULL, level = 0.95,
                 profiled = TRUE) {
  frame <- model.frame(formula, data)
  X <- model.matrix(formula, frame)
  y <- model.response(frame)
  trials <- if (is.matrix(y)) rowSums(y) else rep(1, nrow(X))
  successes <- if (is.matrix(y)) y[, 1] else as.numeric(y)
  rows <- list(
    X = X, k = successes, n = trials, o = if (is.null(o)) rep(0, nrow(X)) else o,
    w = if (is.null(w)) rep(1, nrow(X)) else w
  )
  fit <- do.call(glm, list(formula, binomial, data,
    weights = w, offset = o, method = "brglmFit", type = "AS_mean",
    control = list(epsilon = 1e-11, maxit = 10000)
  ))
  best <- maximum(rows, coef(fit))
  errors <- sqrt(diag(vcov(fit)))
  stopifnot(max(abs(best - coef(fit)) / errors) < 1e-9)
  stopifnot(max(abs(sqrt(diag(solve(information(rows, best)))) / errors - 1)) < 1e-8)
  top <- penalised(rows, best)
  without <- function(tested) {
    start <- best
    start[tested] <- 0
    penalised(rows, maximum(rows, start, !tested))
  }
  places <- seq_along(best)
  searched <- list()
  if (profiled) {
    searched <- list(
      statistics = sapply(places, function(j) 2 * (top - without(places == j))), level = level,
      intervals = lapply(places, function(j) c(bound(rows, best, j, -1, level), bound(rows, best, j, 1, level)))
    )
  }
  terms <- gsub("`", "", sub("(Intercept)", "Intercept", colnames(X), fixed = TRUE), fixed = TRUE)
  result <- c(list(
    case = name, covers = covers, source = source,
    call = paste0(
      "glm(", deparse1(formula), ", binomial, d, ", if (!is.null(w)) "weights = w, ",
      if (!is.null(o)) "offset = o, ",
      "method = \"brglmFit\", type = \"AS_mean\", control = list(epsilon = 1e-11, maxit = 10000))"
    ),
    data = file
  ), keywords, list(
    computed_by = paste(R.version.string, "brglm2", packageVersion("brglm2")),
    terms = terms, coefficients = unname(best), brglm2_coefficients = unname(coef(fit)),
    std_error = unname(errors), log_likelihood = as.numeric(logLik(fit)),
    penalised_log_likelihood = top,
    null_penalised_log_likelihood = without(terms != "Intercept")
  ), searched)
  text <- jsonlite::toJSON(result, auto_unbox = TRUE, digits = NA, pretty = TRUE)
  writeLines(text, file.path(reference_dir, "firth", paste0(name, ".json")))
  cat(sprintf("%-14s %2d terms, brglm2 off by %.0e standard errors\n", name, length(best),
    max(abs(best - coef(fit)) / errors)))
}

d <- read.csv(data_file("endometrial.csv"))
case("endometrial", "a column that separates some of the rows: the example of Heinze and Schemper (2002)",
  "brglm2::endometrial", "endometrial.csv", list(fit = list(target = "HG", features = c("NV", "PI", "EH"))),
  HG ~ NV + PI + EH, d)

d <- read.csv(data_file("iris.csv"))
d$setosa <- as.integer(d$species == "setosa")
# With a coefficient held away from its estimate this one has several maxima, so that bounds are a matter of
# where a search comes from.
case("iris", "complete separation by four columns", "datasets::iris, setosa against the others", "iris.csv",
  list(fit = list(target = "setosa", features = c("sepal_length", "sepal_width", "petal_length", "petal_width"))),
  setosa ~ sepal_length + sepal_width + petal_length + petal_width, d,
  profiled = FALSE)

d <- read.csv(data_file("mtcars.csv"))
case("mtcars", "nearly separated", "datasets::mtcars", "mtcars.csv",
  list(fit = list(target = "am", features = c("wt", "hp"))), am ~ wt + hp, d)

d <- read.csv(data_file("birthwt.csv"))
d$`C(race)` <- factor(d$race)
case("birthwt", "a factor among numbers", "MASS::birthwt", "birthwt.csv",
  list(fit = list(target = "low", features = c("age", "lwt", "race", "smoke", "ptl", "ht", "ui"),
    categorical = list("race"))),
  low ~ age + lwt + `C(race)` + smoke + ptl + ht + ui, d)

d <- read.csv(data_file("snails.csv"))
case("snails", "counts with an offset, a species of whom few died", "MASS::snails", "snails.csv",
  list(fit = list(target = "Deaths", features = c("Species", "Rel.Hum", "Temp"), trials = "N",
    offset = "log_exposure")),
  cbind(Deaths, N - Deaths) ~ Species + Rel.Hum + Temp, d, o = d$log_exposure)

d <- read.csv(data_file("endometrial.csv"))
d$w <- 1 + seq_len(nrow(d)) %% 3
case("weighted", "whole weights, no intercept", "brglm2::endometrial, weights 2, 3, 1, 2, …", "endometrial.csv",
  list(fit = list(formula = "HG ~ 0 + NV + PI + EH", weights = "w")), HG ~ 0 + NV + PI + EH, d, w = d$w,
  level = 0.9)
