"""Well profiles from images, embeddings or tables; their normalisation; the profile protocols."""
