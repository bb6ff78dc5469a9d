"""Price books and cost books, and what a request is charged by them."""
