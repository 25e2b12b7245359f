"""What bench/bus.py runs: brokers, the peers' programs, and the limit without a library."""
