"""A real Kubernetes with nodes on one Linux machine, as root: control plane, kubelets, network, DNS, S3.

    PYTHONPATH=tools python -m cluster up        and  down, node kill|start|cut|heal N

A node is one process tree in mount, PID, network and UTS namespaces of its own, so that every path in it is the usual
one, killing its first process is the loss of the whole node, and nothing of it outlives it.
"""
