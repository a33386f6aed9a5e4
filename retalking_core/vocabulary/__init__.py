"""Facts that every part of the service shares: options, metrics, containers, engines, stages.

One definition each, for the library, the API, the workers and the commands. Imports the standard library and pydantic
alone, so that the API can use it without numpy, PyAV or torch.
"""
