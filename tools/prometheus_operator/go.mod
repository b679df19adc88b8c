module finetune.dev/tools/prometheus_operator

go 1.26.0

// Its CustomResourceDefinitions are read, nothing of it is built: `go mod tidy` would take it for unused.
require github.com/prometheus-operator/prometheus-operator v0.94.0
