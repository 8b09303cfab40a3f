"""The files that ``thetaprime new`` writes, as modules that are linted, typed and tested like all others."""
