//go:build race

package tail

const raceEnabled = true // the detector allocates on its own account
