package main

import (
	"os/exec"
	"syscall"
)

// dieWithParent has the system kill cmd when this process ends, however it
// does: a test that times out runs no cleanup. cmd must be started by a thread
// that lives as long as it is wanted.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
