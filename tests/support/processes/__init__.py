"""Processes under test: deployments of workers, the command line, brokers, replicas and owners."""
