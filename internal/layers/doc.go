// Package layers holds the rules of who may import whom, as a test. They are
// written a second time in .golangci.yml, where an editor sees them.
package layers
