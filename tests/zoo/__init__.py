"""Small real trainings by name, sick and healthy: what detectors are recorded and tested on."""
