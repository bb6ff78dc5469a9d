"""``stepwell calibrate``: a modelled machine fitted to what was measured."""
