"""What Stepwell claims, measured. Every number in docs/benchmarks.md comes from a module in here.

One room for each subject: ``engine``, ``zoo`` (its tiny models), ``answers``, ``policy``, ``plans``,
``tiers``, ``ledger``, ``server``, ``chaos``, ``fleet``, ``crews``, ``review``, ``vllm``. The file of a
command has the command's name; what several rooms use lies beside this file.

To add one: a file in its room with a function under ``@bench`` (``harness`` has a short example), a row in
``stepwell.cli.BENCHES``, and a test that runs it at ``--quick``. To show it in the docs: its ``--json`` in
``bench/results``, a page of prose beside it, a row in ``index.toml``, and ``stepwell bench page``.
"""
