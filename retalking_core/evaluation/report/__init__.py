"""The page a person looks at: players, curves and frames of every clip, in one file that needs no network."""
