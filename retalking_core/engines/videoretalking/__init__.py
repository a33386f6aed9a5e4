"""The method (Cheng et al., VideoReTalking, SIGGRAPH Asia 2022). `engine.py` is its table of contents."""
