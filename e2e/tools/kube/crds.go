//go:build crds

// Package kube names, for `go mod tidy`, the module whose CRDs the tests apply; nothing of it is built.
package kube

import _ "sigs.k8s.io/gateway-api-inference-extension/api/v1"
