"""Models of other libraries, what is checked on each, and the page that is written about them."""
