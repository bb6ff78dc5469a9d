"""Engines: run batches and hold the device's KV. They decide nothing.

    base.py      the contract of an engine and of a text model: read it first
    null.py      an engine that computes nothing and takes the time a cost model says
    llamacpp/    llama.cpp through its public API: engine.py, then device.py and frames.py (where KV lies)

One contract suite (tests/engines/test_contract.py) holds both engines.
"""
