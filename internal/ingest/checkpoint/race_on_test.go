//go:build race

package checkpoint

const raceEnabled = true // the detector allocates on its own account
