//go:build race

package calotype

func init() { instrumented = true }
