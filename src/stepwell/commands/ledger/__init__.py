"""``stepwell ledger``: what was used, charged and earned; the books copied, checked and exported."""
