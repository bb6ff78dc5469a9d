"""Every setting, its default and where it comes from: the file, models, service tiers, API keys."""
