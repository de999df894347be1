"""What every sub-package may use: input validation, targets, devices, threads, memory budgets."""
