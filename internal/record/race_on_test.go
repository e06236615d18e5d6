//go:build race

package record

const raceEnabled = true // the detector allocates on its own account
