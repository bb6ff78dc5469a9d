"""What Stepwell claims, measured. Every number in docs/benchmarks.md comes from a module in here.

One room for each subject: ``engine``, ``zoo`` (its tiny models), ``answers``, ``policy``, ``plans``,
``tiers``, ``ledger``, ``server``, ``chaos``, ``fleet``, ``crews``, ``review``, ``vllm``. The file of a
command has the command's name; what several rooms use lies beside this file.
"""
