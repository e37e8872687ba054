setUpTheme();
setUpCopying();
setUpCharts();
setUpChoice();
