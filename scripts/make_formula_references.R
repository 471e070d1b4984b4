# Fits every formula of the formula references with R's glm. The formulas stand here as streamlr writes
# them; R reads the same text with [1, 2] turned into c(1, 2), and the functions that R lacks or names
# otherwise are defined in `grammar` below. Names of coefficients are built from R's own table of terms
# (attr "factors": 1 is contrasts, 2 is one column per level) and checked against the names that
# model.matrix gives. Run it through make_formula_references.py, which writes the flights first and
# checks each fit afterwards.
#
#   Rscript scripts/make_formula_references.R TABLES_DIR RESULTS_DIR
#
# TABLES_DIR holds the CSV files, RESULTS_DIR gets for case i: i.txt (the numbers, hexadecimal), i.y and
# i.x (outcome and design as raw doubles, column by column). Packages: splines, of R itself.

suppressPackageStartupMessages(library(splines))
arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) == 2)
tables_dir <- arguments[1]
results_dir <- arguments[2]

# ------------------------------------------------------------ codings

# R's codings with the column names that streamlr prints.
contr.named <- function(n, ...) {
  coding <- contr.treatment(n, ...)
  colnames(coding) <- paste0("[T.", colnames(coding), "]")
  coding
}
contr.named.sum <- function(n, ...) {
  coding <- contr.sum(n, ...)
  if (!is.null(rownames(coding))) colnames(coding) <- paste0("[S.", head(rownames(coding), -1), "]")
  coding
}
contr.named.helmert <- function(n, ...) {
  coding <- contr.helmert(n, ...)
  colnames(coding) <- paste0("[H.", rownames(coding)[-1], "]")
  coding
}
contr.named.poly <- function(n, ...) {
  coding <- contr.poly(n, ...)
  dimnames(coding) <- list(n, paste0("[", colnames(coding), "]"))
  coding
}
options(contrasts = c("contr.named", "contr.poly"))

# Levels of text in code-point order, of numbers in their own.
sorted_factor <- function(x) {
  if (is.factor(x)) x <- as.character(x)
  factor(x, levels = sort(unique(x), method = "radix"))
}

# ------------------------------------------------------------ functions of formulas

# model.frame evaluates these on every row, before it omits those with a missing value: what they learn,
# they learn from all rows whose argument is there.
grammar <- new.env()
local(envir = grammar, {
  C <- function(x, coding = treatment, reference = NULL, levels = NULL) {
    coding <- as.character(substitute(coding))
    x <- if (is.null(levels)) sorted_factor(x) else factor(as.character(x), levels = levels)
    if (!is.null(reference)) x <- relevel(x, ref = as.character(reference))
    if (coding != "treatment") attr(x, "contrasts") <- paste0("contr.named.", coding)
    x
  }
  ceil <- ceiling
  clip <- function(x, lo, hi) pmin(pmax(x, lo), hi)
  min <- pmin
  max <- pmax
  center <- function(x) x - mean(x, na.rm = TRUE)
  standardize <- function(x) scale(x)
  poly <- function(x, degree) {
    there <- !is.na(x)
    basis <- matrix(NA_real_, length(x), degree, dimnames = list(NULL, seq_len(degree)))
    basis[there, ] <- stats::poly(x[there], degree)
    basis
  }
  # The cardinal basis of natural cubic splines: column j is 1 at knot j, 0 at the others, as patsy's
  # and formulaic's cr without a constraint. With df, the knots are quantiles of the distinct values.
  cr <- function(x, df = NULL, knots = NULL) {
    distinct <- sort(unique(x))
    if (is.null(knots)) knots <- quantile(distinct, seq(0, 1, length.out = df))[-c(1, df)]
    knots <- c(distinct[1], knots, distinct[length(distinct)])
    basis <- sapply(seq_along(knots), function(j) {
      splinefun(knots, as.numeric(seq_along(knots) == j), method = "natural")(x)
    })
    colnames(basis) <- seq_along(knots)
    basis
  }
  cut <- function(x, breaks, quantiles = NULL) {
    if (is.null(quantiles)) return(base::cut(x, breaks))
    base::cut(x, quantile(x, seq(0, 1, length.out = quantiles + 1), na.rm = TRUE), include.lowest = TRUE)
  }
  lump <- function(x, min = NULL, top = NULL) {
    x <- as.character(x)
    counts <- sort(table(x), decreasing = TRUE)
    stopifnot(is.null(top) || counts[top] > counts[top + 1])
    kept <- names(counts)[if (is.null(top)) counts >= min else seq_along(counts) <= top]
    sorted_factor(ifelse(is.na(x) | x %in% kept, x, "(other)"))
  }
  clock <- function(x) as.POSIXlt(x, tz = "UTC")
  year <- function(x) clock(x)$year + 1900
  month <- function(x) clock(x)$mon + 1
  day <- function(x) clock(x)$mday
  dow <- function(x) (clock(x)$wday + 6) %% 7
  hour <- function(x) clock(x)$hour
  minute <- function(x) clock(x)$min
  isnull <- function(x) is.na(x)
  lower <- function(x) sorted_factor(tolower(x))
  strip <- function(x) sorted_factor(trimws(x))
  len <- function(x) nchar(as.character(x))
})

# ------------------------------------------------------------ formulas as text

as_r <- function(text) {
  as.formula(chartr("]", ")", gsub("[", "c(", text, fixed = TRUE)), env = grammar)
}

# A variable of the terms as streamlr writes it: a bare name without backquotes, a call with one space
# around operators but for **, single quotes and lists in brackets.
as_label <- function(variable) {
  if (is.name(variable)) return(as.character(variable))
  text <- paste(deparse(variable, width.cutoff = 500), collapse = "")
  text <- gsub("\\bc\\(([^()]*)\\)", "[\\1]", text)
  text <- gsub(" = ", "=", text, fixed = TRUE)
  text <- gsub("/", " / ", text, fixed = TRUE)
  text <- gsub("^", "**", text, fixed = TRUE)
  gsub("\"", "'", text, fixed = TRUE)
}

# ------------------------------------------------------------ names of coefficients

# One variable's share in the names of a term: R's and ours, for its columns.
shares <- function(x, code, r_name, label) {
  if (is.logical(x)) x <- factor(x, levels = c(FALSE, TRUE))
  if (is.factor(x) && code == 2) {
    r <- levels(x)
    ours <- paste0("[", r, "]")
  } else if (is.factor(x)) {
    r <- ours <- colnames(contrasts(x))
  } else if (NCOL(x) > 1) {
    r <- colnames(x)
    ours <- paste0("[", r, "]")
  } else {
    r <- ours <- ""
  }
  ours <- gsub("FALSE", "False", gsub("TRUE", "True", ours, fixed = TRUE), fixed = TRUE)
  list(r = paste0(r_name, r), ours = paste0(label, ours))
}

# Names of the columns of model.matrix, which lets the first variable of a term vary fastest.
coefficient_names <- function(model, design) {
  layout <- terms(model)
  pattern <- attr(layout, "factors")
  variables <- as.list(attr(layout, "variables"))[-1]
  intercept <- attr(layout, "intercept")
  is_coded <- vapply(model, function(x) is.factor(x) || is.logical(x), NA)
  if (intercept == 0 && length(pattern) > 0) {
    # Without an intercept the first factor of the first term that has one gets a column per level.
    for (term in seq_len(ncol(pattern))) {
      coded <- which(pattern[, term] > 0 & is_coded[rownames(pattern)])
      if (length(coded) > 0) {
        pattern[coded[1], term] <- 2
        break
      }
    }
  }
  r <- ours <- character()
  if (intercept == 1) {
    r <- "(Intercept)"
    ours <- "Intercept"
  }
  for (term in seq_along(attr(layout, "term.labels"))) {
    term_r <- term_ours <- NULL
    for (row in which(pattern[, term] > 0)) {
      share <- shares(model[[row]], pattern[row, term], rownames(pattern)[row], as_label(variables[[row]]))
      joined <- function(left, right) {
        if (is.null(left)) right else as.vector(outer(left, right, paste, sep = ":"))
      }
      term_r <- joined(term_r, share$r)
      term_ours <- joined(term_ours, share$ours)
    }
    r <- c(r, term_r)
    ours <- c(ours, term_ours)
  }
  stopifnot(identical(r, colnames(design)), !anyDuplicated(ours))
  ours
}

# ------------------------------------------------------------ fitting

# glm.fit calls a column aliased when less than min(1e-7, epsilon / 1000) of it is left: at 1e-15 no
# column ever is, so where the first fit finds one the default epsilon stays, and restarts do the rest.
converged_glm <- function(formula, data) {
  # Probabilities of long delays round to 1, of which R warns; nothing is lost by it.
  fit <- suppressWarnings(glm(formula, binomial, data))
  control <- if (anyNA(coef(fit))) glm.control(maxit = 100) else glm.control(epsilon = 1e-15, maxit = 100)
  for (round in 1:30) {
    start <- coef(fit)
    start[is.na(start)] <- 0
    polished <- suppressWarnings(glm(formula, binomial, data, start = start, control = control))
    moved <- max(abs(coef(polished) - coef(fit)) / sqrt(diag(vcov(polished))), na.rm = TRUE)
    fit <- polished
    if (moved < 1e-13) break
  }
  fit
}

# A lumped factor must be the same whether levels are counted in all rows or in the rows used.
check_lumps <- function(model, data) {
  lumps <- grep("^lump\\(", names(model), value = TRUE)
  used <- data[!(seq_len(nrow(data)) %in% attr(model, "na.action")), , drop = FALSE]
  for (name in lumps) {
    again <- eval(str2lang(name), used, grammar)
    stopifnot(identical(as.character(again), as.character(model[[name]])))
  }
}

case_number <- 0
reference <- function(table, text, covers) {
  data <- tables[[table]]
  formula <- as_r(text)
  fit <- converged_glm(formula, data)
  model <- model.frame(fit)
  design <- model.matrix(fit)
  check_lumps(model, data)
  names <- coefficient_names(model, design)
  coefficients <- coef(fit)
  kept <- !is.na(coefficients)
  std_error <- rep(NA_real_, length(kept))
  std_error[kept] <- sqrt(diag(summary(fit)$cov.unscaled))
  eta <- fit$linear.predictors
  log_likelihood <- sum(plogis(ifelse(fit$y == 1, eta, -eta), log.p = TRUE))
  stopifnot(abs(log_likelihood - logLik(fit)) < 1e-9 * abs(log_likelihood))

  number <- case_number
  case_number <<- case_number + 1
  call <- sprintf("glm(%s, binomial, %s)", paste(deparse(formula, width.cutoff = 500), collapse = " "), table)
  writeLines(c(
    table, text, covers, call, sprintf("%d", nrow(data)), sprintf("%d", nrow(model)),
    sprintf("%a", log_likelihood),
    paste(names, sprintf("%a", coefficients), sprintf("%a", std_error), sep = "\t")
  ), file.path(results_dir, sprintf("%d.txt", number)))
  writeBin(as.double(fit$y), file.path(results_dir, sprintf("%d.y", number)))
  writeBin(as.double(design), file.path(results_dir, sprintf("%d.x", number)))
  cat(sprintf("%3d %-82s %5d rows, %2d terms%s\n", number, text, nrow(model), length(names),
              if (all(kept)) "" else sprintf(", %d aliased", sum(!kept))))
}

# ------------------------------------------------------------ tables

read_table <- function(name) {
  data <- read.csv(file.path(tables_dir, name), check.names = FALSE, na.strings = "",
                   stringsAsFactors = FALSE, colClasses = NA)
  for (column in names(data)) {
    x <- data[[column]]
    if (is.character(x) && all(x %in% c("true", "false", NA))) data[[column]] <- x == "true"
    else if (column == "scheduled") {
      data[[column]] <- as.POSIXct(x, format = "%Y-%m-%dT%H:%M:%S", tz = "UTC")
    } else if (is.character(x)) data[[column]] <- sorted_factor(x)
  }
  data
}

tables <- list(flights = read_table("flights.csv"), birthwt = read_table("birthwt_text.csv"),
               pima = read_table("pima_tr2.csv"))
numeric <- tables$flights[vapply(tables$flights, is.numeric, NA)]
writeLines(names(numeric), file.path(results_dir, "numeric.txt"))
writeBin(as.double(unlist(numeric)), file.path(results_dir, "numeric.bin"))

# ------------------------------------------------------------ cases

flights <- function(text, covers) reference("flights", text, covers)

flights("late ~ 1", "the intercept alone")
flights("late ~ dep_delay + distance", "a sum of numbers")
flights("late ~ (dep_delay + (temp)) + dep_delay", "parentheses; a term twice is one term")
flights("late ~ 0 + dep_delay + distance", "no intercept: 0")
flights("late ~ dep_delay + temp - 1", "no intercept: - 1")
flights("late ~ -1 + origin + dep_delay", "no intercept: a leading -1; the factor in full")
flights("late ~ temp + origin + 0", "no intercept: + 0 at the end")
flights("late ~ carrier + origin + dep_delay", "two text factors")
flights("late ~ 0 + temp + origin + carrier", "no intercept: the first factor in full, the second not")
flights("late ~ rain + weekend + visib", "booleans, one of them with nulls")

flights("late ~ origin:weekend", "factor x factor without margins: all cells, the last aliased")
flights("late ~ origin + origin:weekend", "factor x factor with its first margin")
flights("late ~ weekend + origin:weekend + dep_delay", "factor x factor with its second margin")
flights("late ~ 0 + origin:weekend + dep_delay", "factor x factor, no intercept")
flights("late ~ 0 + origin * weekend + dep_delay", "crossing, no intercept")
flights("late ~ origin * weekend * rain", "factor x factor x factor")
flights("late ~ origin * weekend - origin", "crossing with a margin removed")
flights("late ~ origin * `day part` + dep_delay", "crossing, one factor with an odd name")

flights("late ~ dep_delay:origin", "number x factor without margins")
flights("late ~ origin + dep_delay:origin", "number x factor with the factor's margin")
flights("late ~ dep_delay + dep_delay:origin", "number x factor with the number's margin")
flights("late ~ dep_delay * origin", "number x factor with both margins")
flights("late ~ origin * dep_delay", "factor x number: the parts in the order of the variables")
flights("late ~ 0 + dep_delay:origin", "number x factor, no intercept")
flights("late ~ 0 + origin / dep_delay", "nesting without intercept: a line per level")

flights("late ~ dep_delay * temp", "number x number")
flights("late ~ temp:humid + dep_delay", "number x number without margins")
flights("late ~ temp * humid * origin", "number x number x factor, all margins")
flights("late ~ temp:humid:origin + dep_delay", "number x number x factor, no margins")
flights("late ~ origin * weekend * temp", "factor x factor x number, all margins")
flights("late ~ origin:weekend:temp", "factor x factor x number, no margins")
flights("late ~ weekend + origin:weekend:temp + dep_delay", "factor x factor x number, one margin")

flights("late ~ origin / weekend + dep_delay", "nesting")
flights("late ~ (origin + weekend) / temp", "a sum over a number: nested in both at once")
flights("late ~ origin / (weekend + temp)", "a sum nested in a factor")
flights("late ~ origin + weekend %in% origin + dep_delay", "%in%")
flights("late ~ (origin + rain + temp)**2", "a power, written **")
flights("late ~ (origin + weekend + dep_delay)^2 - origin:weekend", "a power less an interaction")
flights("late ~ (origin + weekend + temp + humid)^3", "a third power")
flights("late ~ origin * weekend * humid - origin:weekend:humid", "removal of the highest interaction")
flights("late ~ dep_delay * origin * weekend - dep_delay:origin:weekend - origin:weekend",
        "removal of two interactions")
flights("late ~ lump(carrier, top=3) * cut(distance, [0, 500, 1000, 1500, 5000])",
        "crossing with empty cells, which are aliased")
flights("late ~ lump(carrier, top=3):cut(distance, [0, 500, 1000, 1500, 5000]) + dep_delay",
        "all cells, some of them empty")

flights("late ~ `wind speed` + log1p(`wind speed`) + `day part`", "odd names, bare and in a call")
flights("late ~ `wind speed`:`day part` + I(`wind speed`**2)", "odd names in an interaction and a power")
flights("late ~ I(dep_delay > 15) + temp", "a comparison is a factor")
flights("late ~ I(dep_delay > 15) * origin + I(temp <= 50)", "a comparison crossed with a factor")
flights("late ~ 0 + I(dep_delay >= 0) + I(humid < 60) + I(month != 7)", "comparisons, no intercept")
flights("late ~ I(carrier == 'UA') + I(dep_delay > 15):temp", "comparison with text; comparison x number")
flights("late ~ temp + I(temp**2)", "a square")
flights("late ~ I(temp**3) + I(temp * humid) + I(1 / visib + 1)", "arithmetic with a pole, never reached")
flights("late ~ I(dep_delay / (distance + 1)) + I(distance - air_time)", "arithmetic on two columns")
flights("late ~ I(distance**3) + I(month * 100 + day)", "arithmetic that small integers cannot hold")
flights("late ~ I((temp - 32) * 5 / 9) + I(-dep_delay)", "arithmetic with numbers; a sign")
flights("late ~ log(distance) + log2(air_time) + log10(humid) + log1p(visib)", "logarithms")
flights("late ~ exp(-visib / 5) + sqrt(distance) + abs(dep_delay)", "exp, sqrt, abs")
flights("late ~ sign(dep_delay) + floor(temp / 10) + ceil(humid / 10) + round(`wind speed`)",
        "sign and rounding")
flights("late ~ clip(dep_delay, -10, 60) + min(temp, 70) + max(humid, 50)", "clip, min, max with numbers")
flights("late ~ max(dep_delay, 0) + min(temp, humid) + log(clip(distance, 200, 2000))",
        "min of two columns; a call in a call")

flights("late ~ C(month) + dep_delay", "a number as a factor")
flights("late ~ C(month):dep_delay", "a number as a factor x number")
flights("late ~ C(month, reference=7) + C(carrier, reference='UA') + dep_delay", "chosen references")
flights("late ~ C(origin, levels=['LGA', 'EWR', 'JFK']) * dep_delay", "levels in a given order")
flights("late ~ C(origin, treatment) + C(weekend)", "treatment coding by name; a boolean in C()")
flights("late ~ C(carrier, sum) + dep_delay", "sum coding")
flights("late ~ C(origin, sum) * weekend", "sum coding, crossed with treatment coding")
flights("late ~ 0 + C(origin, sum) + dep_delay", "sum coding without intercept is one column per level")
flights("late ~ C(month, helmert) + dep_delay", "Helmert coding")
flights("late ~ dep_delay + dep_delay:C(origin, helmert)", "Helmert coding x number")
flights("late ~ C(month, poly) + dep_delay", "polynomial coding, twelve levels")
flights("late ~ C(origin, poly) * temp", "polynomial coding x number")

flights("late ~ center(temp) * center(humid)", "centred at the mean of all rows that have the value")
flights("late ~ scale(distance) + standardize(temp) + scale(pressure)", "scaled by the n - 1 deviation")
flights("late ~ scale(log(distance)):origin", "a call in a scale, x factor")
flights("late ~ poly(air_time, 3)", "orthogonal polynomial")
flights("late ~ poly(temp, 2) * origin", "orthogonal polynomial x factor")
flights("late ~ poly(temp, 2):poly(humid, 2)", "polynomial x polynomial")
flights("late ~ bs(air_time, df=5)", "B-spline by degrees of freedom")
flights("late ~ bs(temp, knots=[40, 60], degree=2) + dep_delay", "B-spline by knots and degree")
flights("late ~ bs(temp, df=4):origin", "B-spline x factor")
flights("late ~ bs(humid, df=4) * weekend + dep_delay", "B-spline crossed with a boolean")
flights("late ~ bs(temp, df=4):lump(carrier, top=4)", "B-spline x lumped carriers")
flights("late ~ ns(humid, df=4) + dep_delay", "natural spline by degrees of freedom")
flights("late ~ ns(temp, knots=[40, 55, 70]) + origin", "natural spline by knots")
flights("late ~ ns(temp, df=3) * rain", "natural spline crossed with a boolean")
flights("late ~ 0 + cr(temp, df=5) + dep_delay", "cardinal natural spline, no intercept")
flights("late ~ cr(humid, knots=[50, 70])", "cardinal natural spline: its last column aliased")
flights("late ~ cut(distance, [0, 500, 1000, 1500, 5000]) + dep_delay", "intervals by breaks")
flights("late ~ cut(dep_delay, [-20, -5, 0, 10, 60]) + temp", "intervals; values outside are missing")
flights("late ~ cut(temp, quantiles=4) * origin", "intervals by quantiles")
flights("late ~ cut(air_time, quantiles=5) + cut(humid, quantiles=3):dep_delay",
        "quantile intervals, one x number")
flights("late ~ lump(dest, min=80) + dep_delay", "rare levels lumped")
flights("late ~ lump(dest, top=3) + dep_delay", "all but the three most frequent lumped")
flights("late ~ lump(carrier, top=2) * origin", "lumped x factor")

flights("late ~ hour(scheduled) + minute(scheduled) + day(scheduled) + month(scheduled)",
        "parts of a timestamp are numbers")
flights("late ~ C(dow(scheduled)) + C(month(scheduled), reference=6)", "parts of a timestamp as factors")
flights("late ~ year(scheduled) + dep_delay", "a constant, aliased with the intercept")
flights("late ~ 0 + year(scheduled) + I(dow(scheduled) >= 5)", "a constant in place of the intercept")
flights("late ~ bs(hour(scheduled), df=4) + I(hour(scheduled) + minute(scheduled) / 60)",
        "a timestamp's part in a spline and in arithmetic")
flights("late ~ isnull(wind_gust) + dep_delay", "isnull is a factor and never missing")
flights("late ~ isnull(pressure) * temp + isnull(wind_gust):origin", "isnull in interactions")
flights("late ~ lower(strip(tag)) + dep_delay", "text trimmed and in lower case")
flights("late ~ strip(lower(tag)):temp + len(airline)", "text in an interaction; its length")
flights("late ~ log(distance) * C(month)", "a call x a number as a factor")

birthwt <- function(text, covers) reference("birthwt", text, covers)
birthwt("low ~ .", "the dot: every other column")
birthwt("low ~ . - age", "the dot less a column")
birthwt("low ~ . + log(age):race", "the dot and an interaction")
birthwt("low ~ (age + race + smoke)**2 + ht", "a power with text, a boolean and a number")
pima <- function(text, covers) reference("pima", text, covers)
pima("type ~ .", "the dot with nulls; a text outcome")
pima("type ~ . - age + glu:bmi + log(age)", "the dot, less and more")
pima("type ~ ns(glu, df=3) + scale(bmi) * poly(age, 2)", "learned from rows that the model drops")
