"""FastAPI: HTTP in, JSON out. Imports no torch, numpy, cv2 or av."""
