//go:build asan

package calotype

func init() { instrumented = true }
