"""What every room may use, because it knows none of them: units as people write them, one value for each KV
tier, the clock, quantiles, this machine, files for one user alone, and child processes of ours.
"""
