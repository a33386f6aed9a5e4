"""The preview engine: real pixels moved by landmarks, on any CPU, without a checkpoint."""
