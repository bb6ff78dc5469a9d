"""Self-contained HTML reports: charts as SVG inside the page, tables, inputs, seed and versions."""
