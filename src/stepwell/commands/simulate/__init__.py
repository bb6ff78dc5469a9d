"""``stepwell simulate``: a workload on a modelled fleet."""
