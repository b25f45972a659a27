"""One test a hazard of rewriting models; docs/hazards.md is written from them."""
