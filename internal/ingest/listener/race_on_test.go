//go:build race

package listener

const raceEnabled = true // the detector allocates on its own account
