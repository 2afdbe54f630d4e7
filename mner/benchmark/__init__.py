"""Configs x seeds x data sets, in one run that can be killed and started again."""
