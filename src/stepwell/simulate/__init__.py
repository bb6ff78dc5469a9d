"""The real policy on a modelled machine: what another rule, or another size, would have done."""
