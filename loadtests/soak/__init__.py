"""Load that goes on for long, and crowds: what a gateway that serves for weeks must stand."""
