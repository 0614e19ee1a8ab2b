"""StreamGAN's training side: everything that makes a generator; `engine` never imports it."""
