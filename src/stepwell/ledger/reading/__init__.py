"""What the books say: sums, statements, margins, exports, and whether they are right."""
