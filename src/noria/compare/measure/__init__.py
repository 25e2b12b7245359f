"""The measurements of `noria compare`, each in processes of its own. Imports `loadgen`."""
