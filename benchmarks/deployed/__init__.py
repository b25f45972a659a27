"""What the benchmarks of the deploy form share: models, the authors' converters, what one forward does, pages."""
