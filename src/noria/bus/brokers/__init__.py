"""The adapters of brokers, one file each; a broker's package is imported when its URL is used.

May import the contract, and nothing above it.
"""
