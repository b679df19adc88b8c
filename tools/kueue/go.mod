module finetune.dev/tools/kueue

go 1.26.0

// Its CustomResourceDefinitions are read, nothing of it is built: `go mod tidy` would take it for unused.
require sigs.k8s.io/kueue v0.19.2
