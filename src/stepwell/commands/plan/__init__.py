"""``stepwell plan``: capacity, prices, hardware, disks and contracts."""
